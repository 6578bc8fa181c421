"""What a worker has at hand, whichever kind of work it is asked to do."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

import torch

from gfs_dist.runtime import collectives as process_group
from gfs_dist.runtime.collectives import Traffic
from gfs_dist.runtime.fault_injection import Saboteur
from gfs_dist.runtime.heartbeat import Pulse, fault_key
from gfs_dist.runtime.messages import Post
from gfs_dist.runtime.serialization import unpack
from gfs_dist.runtime.store import Address, connect
from gfs_dist.runtime.timing import Timing
from gfs_dist.selection.objective import Objective


class Desk:
    """The worker's place.

    Args:
        address: the coordinator's store.
        name: of this worker, never used again for another.

    Attributes:
        post: rank, device and so on in the current generation.
        timing: of the current job.
    """

    post: Post
    saboteur: Saboteur

    def __init__(self, address: Address, name: str) -> None:
        self.address = address
        self.pulse = Pulse(address, name)
        self.timing = Timing()
        self._job = -1
        self._log_file: str | None = None

    def take(self, post: Post) -> None:
        """Begin a generation."""
        self._log_to(post.log_file)
        if post.job != self._job:
            self._job, self.timing = post.job, Timing()
            self.pulse.traffic = Traffic()
        self.post = post
        self.pulse.traffic.calls = self.pulse.traffic.done  # what was broken off is over
        self.pulse.enter("setup", post.generation)
        torch.set_num_threads(post.threads)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # NCCL and "cuda" without a number mean this one
        key = fault_key(post.generation, post.rank)
        self.saboteur = Saboteur(
            post.faults, lambda: connect(self.address).set(key, repr(time.time()))
        )
        self.saboteur.before(0)

    @property
    def device(self) -> torch.device:
        return torch.device(self.post.device)

    @contextmanager
    def joined(self, step: int = 0, phase: str = "work") -> Iterator[None]:
        """In the process group of the generation; the work in it goes on after ``step``."""
        pulse, post, began = self.pulse, self.post, time.perf_counter()
        pulse.enter("join", post.generation)
        pulse.beat.step = step
        prefix = f"gen{post.generation}"
        process_group.join(self.address, prefix, post.rank, post.num_ranks, post.backend)
        try:
            self.timing.join_s += time.perf_counter() - began
            pulse.enter(phase, post.generation)
            yield
        finally:
            process_group.leave()

    @contextmanager
    def timed(self, objective: Objective | None = None) -> Iterator[None]:
        """Add to the timing what goes on inside: computing, and exchanging."""
        traffic, timing, began = self.pulse.traffic, self.timing, time.perf_counter()
        exchanged = traffic.seconds
        try:
            yield
        finally:
            exchange_s = traffic.seconds - exchanged
            timing.exchange_s += exchange_s
            timing.compute_s += time.perf_counter() - began - exchange_s
            timing.messages, timing.bytes = traffic.messages, traffic.bytes
            timing.finish(objective)

    def _log_to(self, log_file: str | None) -> None:
        """Send standard output and error to ``log_file``, where that folder exists."""
        if log_file is None or log_file == self._log_file:
            return
        self._log_file = log_file
        if not FilePath(log_file).parent.is_dir():  # a machine that does not share it
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        target = os.open(log_file, flags, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)
        form = "%(asctime)s %(process)d %(message)s"
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form, force=True)


class Rank:
    """A worker's side of one kind of work, which is about one object that the coordinator sent.

    Attributes:
        thing: that object (a problem, a task), until the next comes.
        number: of it.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.number = -1
        self.thing: Any = None

    def load(self, number: int, packed: bytes | None) -> None:
        """Receive object ``number``; None if it is here already."""
        if packed is not None:
            self.thing = None  # not both in memory at once
            self.thing, self.number = unpack(packed), number
        assert self.number == number
