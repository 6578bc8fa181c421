"""What one rank does when the coordinator asks: set up, search, answer.

The same class runs in a local worker process and in a Ray actor.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from gfs_dist.runtime import process_group
from gfs_dist.runtime.faults import Fault, Saboteur
from gfs_dist.runtime.graph import Graph, GraphCommunicator
from gfs_dist.runtime.news import PathNews
from gfs_dist.runtime.process_group import CommunicationError, GroupCommunicator, Traffic
from gfs_dist.runtime.pulse import Pulse, fault_key
from gfs_dist.runtime.spec import Problem
from gfs_dist.runtime.store import Address, connect
from gfs_dist.runtime.timing import Timing
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import Path
from gfs_dist.selection.stop import Stop

log = logging.getLogger("gfs_dist.runtime.worker")


@dataclass(frozen=True)
class Identity:
    """Who a worker is: its process, its machine, and what that offers."""

    pid: int
    host: str
    node: str
    cores: int
    gpus: int


@dataclass(frozen=True)
class Assignment:
    """What a rank is to hold in a generation.

    ``log_file`` receives what the worker prints; ``path`` is where the search will go on, so
    that an objective which is further or elsewhere is not kept.
    """

    generation: int
    search: int
    problem: int
    rank: int
    own: Tensor
    device: str
    threads: int
    path: Path
    log_file: str | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Order:
    """A search to be joined, after :class:`Assignment`: the same on every rank but for ``rank``."""

    generation: int
    rank: int
    num_ranks: int
    partition: Partition
    stop: Stop
    path: Path
    backend: str
    graph: Graph | None = None


@dataclass(frozen=True)
class Finished:
    """The search came to its end."""

    path: Path
    timing: Timing


@dataclass(frozen=True)
class Interrupted:
    """A collective failed; the path is as far as this rank knows it."""

    path: Path
    timing: Timing
    reason: str


@dataclass(frozen=True)
class Reply:
    """The answer to a call: a value, or the error of a user."""

    value: Any = None
    error: BaseException | None = None


@dataclass
class _Held:
    """The objective that a rank holds, and for what it was built."""

    problem: int
    own: Tensor
    device: str
    objective: Objective
    path: Path = field(default_factory=lambda: Path(0))

    def fits(self, assignment: Assignment) -> bool:
        """Whether it can go on where ``assignment`` does."""
        k = self.objective.position
        return (
            (self.problem, self.device) == (assignment.problem, assignment.device)
            and torch.equal(self.own, assignment.own)
            and k <= len(assignment.path)
            and self.path.picks[:k] == assignment.path.picks[:k]
            and self.path.step_sizes[:k] == assignment.path.step_sizes[:k]
        )


class RankHost:
    """The worker's side of every call. Calls come one at a time.

    Args:
        address: the coordinator's store.
        name: of this worker, never used again for another.
        node: a name of the machine that workers on it share.
    """

    def __init__(self, address: Address, name: str, node: str = "") -> None:
        self.address = address
        self.node = node or socket.gethostname()
        self.pulse = Pulse(address, name)
        self.problems: dict[int, Problem] = {}
        self.held: _Held | None = None
        self.timing = Timing()
        self.search_number = -1
        self.log_file: str | None = None

    def handle(self, method: str, *arguments: Any) -> Reply:
        """Do one call; an error becomes part of the answer, with where it came from as note."""
        try:
            return Reply(getattr(self, method)(*arguments))
        except Exception as error:
            log.info("%s failed", method, exc_info=True)
            error.add_note(f"in a worker (pid {os.getpid()}):\n{traceback.format_exc()}")
            return Reply(error=_portable(error))
        finally:
            self.pulse.enter("idle", self.pulse.beat.generation)

    def hello(self) -> Identity:
        """Who this worker is."""
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return Identity(os.getpid(), socket.gethostname(), self.node, usable_cores(), gpus)

    def load(self, problem: int, pickled: bytes) -> None:
        """Receive a problem; the one before it is forgotten."""
        self.held = None
        self.problems = {problem: pickle.loads(pickled)}  # noqa: S301 - the coordinator

    def prepare(self, assignment: Assignment, pickled: bytes | None = None) -> None:
        """Build the objective, unless what is held still fits; ``pickled`` is a new problem."""
        if pickled is not None:
            self.load(assignment.problem, pickled)
        self._log_to(assignment.log_file)
        if assignment.search != self.search_number:
            self.search_number, self.timing = assignment.search, Timing()
            self.pulse.traffic = Traffic()
        self.pulse.enter("setup", assignment.generation)
        torch.set_num_threads(assignment.threads)
        self.saboteur = self._saboteur(assignment)
        self.saboteur.before(0)
        if self.held is not None and self.held.fits(assignment):
            log.info("rank %d: goes on with what it holds", assignment.rank)
            return
        self.held, began = None, time.perf_counter()
        device = torch.device(assignment.device)
        objective = self.problems[assignment.problem].objective(
            assignment.own, device, self.pulse.tick
        )
        self.held = _Held(assignment.problem, assignment.own, assignment.device, objective)
        self.timing.setup_s += time.perf_counter() - began
        log.info("rank %d: holds %d candidates", assignment.rank, len(assignment.own))

    def search(self, order: Order) -> Finished | Interrupted:
        """Join the group of the generation and run the loop in it."""
        assert self.held is not None
        path = self.held.path = order.path
        news = PathNews(path)
        self.pulse.follow(news if order.rank == 0 else None)
        log.info("rank %d: generation %d from step %d", order.rank, order.generation, len(path))
        try:
            with self._group(order) as communicator:
                self._run(order, path, news, communicator)
        except CommunicationError as error:
            log.info("rank %d: interrupted after step %d: %s", order.rank, len(path), error)
            return Interrupted(path, self.timing, str(error))
        log.info("rank %d: finished (%s) after step %d", order.rank, path.stop_reason, len(path))
        return Finished(path, self.timing)

    def _run(
        self, order: Order, path: Path, news: PathNews, communicator: GroupCommunicator
    ) -> None:
        assert self.held is not None
        pulse, first = self.pulse, len(path) + 1

        def on_step(path: Path) -> None:
            pulse.beat.step = news.steps = len(path)
            if len(path) == first:
                pulse.wake()
            self.saboteur.before(len(path) + 1)

        self.saboteur.before(first)
        traffic, began = communicator.traffic, time.perf_counter()
        exchanged = traffic.seconds
        try:
            greedy(
                self.held.objective,
                order.stop,
                communicator,
                order.partition,
                path=path,
                on_step=on_step,
            )
        finally:
            timing, spent = self.timing, time.perf_counter() - began
            timing.exchange_s += traffic.seconds - exchanged
            timing.compute_s += spent - (traffic.seconds - exchanged)
            timing.messages, timing.bytes = traffic.messages, traffic.bytes
            timing.finish(self.held.objective)

    @contextmanager
    def _group(self, order: Order) -> Iterator[GroupCommunicator]:
        pulse, began = self.pulse, time.perf_counter()
        pulse.enter("join", order.generation)
        pulse.beat.step = len(order.path)
        prefix = f"gen{order.generation}"
        pulse.traffic.calls = pulse.traffic.done  # what was broken off is over
        process_group.join(self.address, prefix, order.rank, order.num_ranks, order.backend)
        try:
            self.timing.join_s += time.perf_counter() - began
            pulse.enter("work", order.generation)
            if order.graph is not None:
                yield GraphCommunicator(order.graph, pulse.traffic)
            else:
                yield GroupCommunicator(pulse.traffic)
        finally:
            process_group.leave()

    def _saboteur(self, assignment: Assignment) -> Saboteur:
        key = fault_key(assignment.generation, assignment.rank)
        return Saboteur(
            assignment.faults, lambda: connect(self.address).set(key, repr(time.time()))
        )

    def _log_to(self, log_file: str | None) -> None:
        """Send standard output and error to ``log_file``, where that folder exists."""
        if log_file is None or log_file == self.log_file:
            return
        self.log_file = log_file
        if not FilePath(log_file).parent.is_dir():  # a machine that does not share it
            return
        target = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)
        form = "%(asctime)s %(process)d %(message)s"
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form, force=True)


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _portable(error: Exception) -> Exception:
    """``error`` if it survives the journey, else a RuntimeError with the same text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made just now
    except Exception:  # noqa: BLE001 - whatever an error class of a user may do
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
