"""What a worker does when the coordinator asks; the same in a local process and in a Ray actor."""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gfs_dist._allocator import keep_freed_memory
from gfs_dist.runtime import collectives
from gfs_dist.runtime.collectives import (
    CommunicationError,
    GroupCommunicator,
    GroupPeers,
    Traffic,
)
from gfs_dist.runtime.fault_injection import FaultInjector
from gfs_dist.runtime.graph import GraphCommunicator
from gfs_dist.runtime.heartbeat import HeartbeatThread, WorkerPhase, fault_key
from gfs_dist.runtime.messages import (
    GroupEnd,
    Identity,
    ItemDone,
    RankAssignment,
    Reply,
    SearchSetup,
    pack,
    unpack,
)
from gfs_dist.runtime.progress import Work
from gfs_dist.runtime.resources import no_time, peak_bytes, usable_cores
from gfs_dist.runtime.store import Address, connect
from gfs_dist.selection.loop import GAP_BATCH, greedy
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.path import GreedyPath

log = logging.getLogger(__name__)


class WorkerContext:
    """What a worker has, whichever kind of work it does.

    Attributes:
        assignment: rank, device and so on in the current generation.
        timing: of the current job.
    """

    assignment: RankAssignment
    injector: FaultInjector

    def __init__(self, address: Address, name: str) -> None:
        self.address = address
        self.heartbeat = HeartbeatThread(address, name)
        self.timing = no_time()
        self._job = -1
        self._log_file: str | None = None

    @property
    def device(self) -> torch.device:
        return torch.device(self.assignment.device)

    @property
    def rank(self) -> int:
        return self.assignment.rank

    def begin(self, assignment: RankAssignment) -> None:
        """Begin a generation."""
        self._log_to(assignment.log_file)
        heartbeat = self.heartbeat
        if assignment.job != self._job:
            self._job, self.timing = assignment.job, no_time()
            heartbeat.traffic = Traffic()
        self.assignment = assignment
        heartbeat.traffic.calls = heartbeat.traffic.done  # what was broken off is over
        self.enter(WorkerPhase.SETUP)
        torch.set_num_threads(assignment.threads)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # NCCL and "cuda" without a number mean this one
        key = fault_key(assignment.generation, assignment.rank)
        self.injector = FaultInjector(
            assignment.faults, lambda: connect(self.address).set(key, repr(time.time()))
        )
        self.injector.before(0)

    def enter(self, phase: WorkerPhase) -> None:
        self.heartbeat.enter(phase, self.assignment.generation)

    @contextmanager
    def joined(self, step: int, phase: WorkerPhase) -> Iterator[None]:
        """In the process group of the generation; the work in it continues after ``step``."""
        assignment, began = self.assignment, time.perf_counter()
        self.enter(WorkerPhase.JOIN)
        self.heartbeat.beat.step = step
        prefix = f"gen{assignment.generation}"
        collectives.join(
            self.address, prefix, assignment.rank, assignment.num_ranks, assignment.backend
        )
        try:
            self.timing["join_s"] += time.perf_counter() - began
            self.enter(phase)
            yield
        finally:
            collectives.leave()

    @contextmanager
    def timed(self, objective: Objective | None = None) -> Iterator[None]:
        """Add the time inside to the timing: computing and exchanging."""
        traffic, timing, began = self.heartbeat.traffic, self.timing, time.perf_counter()
        exchanged = traffic.seconds
        try:
            yield
        finally:
            exchange_s = traffic.seconds - exchanged
            timing["exchange_s"] += exchange_s
            timing["compute_s"] += time.perf_counter() - began - exchange_s
            timing["messages"], timing["bytes"] = traffic.messages, traffic.bytes
            timing["peak_rss_bytes"] = peak_bytes()
            timing["evaluated"] = getattr(objective, "num_evaluated", 0)
            timing["scored"] = getattr(objective, "num_scored", 0)

    def _log_to(self, log_file: str | None) -> None:
        """Send standard output and error to ``log_file``, where that folder exists."""
        if log_file is None or log_file == self._log_file:
            return
        self._log_file = log_file
        if not Path(log_file).parent.is_dir():  # a machine that does not share it
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        target = os.open(log_file, flags, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)
        form = "%(asctime)s %(process)d %(message)s"
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form, force=True)


@dataclass(frozen=True)
class HeldObjective:
    """An objective on a device, and the setup it was built for, whose path it has followed."""

    setup: SearchSetup
    device: str
    objective: Objective

    def fits(self, setup: SearchSetup, device: str) -> bool:
        """Whether it can continue where ``setup`` does."""
        k, known, path = self.objective.position, self.setup.path, setup.path
        return (
            self.device == device
            and self.setup.share.equals(setup.share)
            and k <= len(path)
            and known.picks[:k] == path.picks[:k]
            and known.step_sizes[:k] == path.step_sizes[:k]
        )


class WorkHandler:
    """The worker's side of every call. Calls come one at a time.

    The latest problem or task of each kind of work stays here, and so does the objective of a
    search: from generation to generation, and from search to search if it fits.

    Args:
        address: the coordinator's store.
        name: of this worker, never used again for another.
        node: a name of the machine that workers on it share.
    """

    def __init__(self, address: Address, name: str, node: str = "") -> None:
        keep_freed_memory()
        self.node = node or socket.gethostname()
        self.context = WorkerContext(address, name)
        self._objects: dict[Work, tuple[int, Any]] = {}
        self._held: HeldObjective | None = None

    def handle(self, method: Callable[..., Any], *arguments: Any) -> Reply:
        """Do one call of a ``method`` of this class.

        An error becomes part of the answer, with its traceback as a note.
        """
        try:
            return Reply(method(self, *arguments))
        except Exception as error:
            log.info("%s failed", method.__name__, exc_info=True)
            error.add_note(f"in a worker (pid {os.getpid()}):\n{traceback.format_exc()}")
            return Reply(error=_portable(error))
        finally:
            heartbeat = self.context.heartbeat
            heartbeat.enter(WorkerPhase.IDLE, heartbeat.beat.generation)

    def hello(self) -> Identity:
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        host = socket.gethostname()
        return Identity(os.getpid(), host, self.node, usable_cores(), gpus, visible)

    def load(self, work: Work, number: int, packed: bytes | None) -> None:
        """Receive object ``number`` for a kind of work; None if it is here already."""
        if packed is not None:
            self._objects.pop(work, None)  # not both in memory at once
            if work is Work.SEARCH:
                self._held = None
            self._objects[work] = number, unpack(packed)
        assert self._objects[work][0] == number

    def prepare(
        self,
        assignment: RankAssignment,
        work: Work,
        number: int,
        packed: bytes | None,
        setup: SearchSetup | None = None,
    ) -> float:
        """Be ready to work as the assigned rank; seconds that took."""
        began = time.perf_counter()
        self.context.begin(assignment)
        self.load(work, number, packed)
        if setup is not None:
            self._prepare_objective(setup)
        return time.perf_counter() - began

    def run_group(self, work: Work) -> GroupEnd:
        """Join the group of the generation, and search or run the group task in it."""
        context, heartbeat = self.context, self.context.heartbeat
        value: Any = self._held.setup.path if self._held and work is Work.SEARCH else None
        interruption = None
        log.info("rank %d: generation %d", context.rank, context.assignment.generation)
        try:
            value = self._search() if work is Work.SEARCH else self._run_task()
        except CommunicationError as error:
            interruption = str(error)
        step, reason = heartbeat.beat.step, getattr(value, "stop_reason", "task")
        ended = f"interrupted ({interruption})" if interruption else f"finished ({reason})"
        log.info("rank %d: %s after step %d", context.rank, ended, step)
        return GroupEnd(value, step, context.timing, heartbeat.unsent(), interruption)

    def do_item(self, turn: int, packed: bytes) -> ItemDone:
        """Do one item of a map, the rank's number ``turn`` in it."""
        context, (_, task) = self.context, self._objects[Work.MAP]
        context.enter(WorkerPhase.WORK)
        context.injector.before(turn)
        began = last = time.perf_counter()
        pause_s = 0.0

        def tick() -> None:
            nonlocal last, pause_s
            context.heartbeat.tick()
            now = time.perf_counter()
            pause_s, last = max(pause_s, now - last), now

        value = task.run(unpack(packed), context.device, tick)
        tick()
        answer = pack(value, f"what {type(task).__name__}.run returned")
        return ItemDone(answer, last - began, pause_s, peak_bytes())

    def _prepare_objective(self, setup: SearchSetup) -> None:
        """Build the objective, unless what is held still fits."""
        context, (_, problem) = self.context, self._objects[Work.SEARCH]
        held, device = self._held, context.assignment.device
        if held is not None and held.fits(setup, device):
            self._held = HeldObjective(setup, device, held.objective)
            log.info("rank %d: continues with the objective that it holds", context.rank)
            return
        self._held = held = None  # before another is built
        began = time.perf_counter()
        objective = problem.objective(setup.share, context.device, context.heartbeat.tick)
        self._held = HeldObjective(setup, device, objective)
        context.timing["setup_s"] += time.perf_counter() - began
        log.info("rank %d: holds %d candidates", context.rank, len(setup.share.own))

    def _search(self) -> GreedyPath:
        """Continue the path of the setup to its end."""
        assert self._held is not None
        context, setup, objective = self.context, self._held.setup, self._held.objective
        heartbeat, injector, path = context.heartbeat, context.injector, setup.path
        first = len(path) + 1

        def on_step(path: GreedyPath) -> None:
            k = len(path)
            if context.rank == 0:
                gaps = path.gap[k - GAP_BATCH : k] if k % GAP_BATCH == 0 else []
                heartbeat.feed(k, (path.picks[-1], path.loss[-1], path.step_sizes[-1], gaps))
            heartbeat.beat.step = k
            if k == first:
                heartbeat.wake()
            injector.before(k + 1)

        with context.joined(len(path), WorkerPhase.WORK):
            communicator = (
                GroupCommunicator(heartbeat.traffic)
                if setup.graph is None
                else GraphCommunicator(setup.graph, heartbeat.traffic)
            )
            injector.before(first)
            with context.timed(objective):
                return greedy(
                    objective,
                    setup.stop,
                    communicator,
                    setup.partition,
                    path=path,
                    on_step=on_step,
                )

    def _run_task(self) -> bytes:
        """Run the group task; what rank 0 returns, pickled."""
        context, (_, task) = self.context, self._objects[Work.GROUP]
        heartbeat = context.heartbeat

        def tick(step: int, value: Any = None) -> None:
            heartbeat.tick()
            heartbeat.beat.step = step
            if value is not None:
                value = json.loads(json.dumps(value))  # what is no JSON fails here
                if context.rank == 0:
                    heartbeat.feed(step, value)
            if heartbeat.beat.phase is WorkerPhase.SETUP:
                context.enter(WorkerPhase.WORK)
            context.injector.upon(step)

        with context.joined(0, WorkerPhase.SETUP):  # until the first tick
            peers = GroupPeers(heartbeat.traffic)
            with context.timed():
                value = task.run(peers, context.device, tick)
        answer = value if context.rank == 0 else None
        return pack(answer, f"what {type(task).__name__}.run returned")


def _portable(error: Exception) -> Exception:
    """``error`` if it survives the journey, else a RuntimeError with the same text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made just now
    except Exception:  # noqa: BLE001 - whatever an error class of a user may do
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
