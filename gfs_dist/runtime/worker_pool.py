"""The workers of a runtime: one a rank, spares, replacements, and the objects they were sent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gfs_dist.errors import InputError
from gfs_dist.runtime.backends.base import Launcher, PlacementError, Worker, WorkerDiedError
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.graph import make_graph
from gfs_dist.runtime.heartbeat import heartbeat_key
from gfs_dist.runtime.messages import Identity, RankAssignment, pack
from gfs_dist.runtime.progress import Work
from gfs_dist.runtime.spec import RuntimeSpec
from gfs_dist.runtime.store import host_store
from gfs_dist.runtime.watchdog import Watchdog
from gfs_dist.runtime.worker import WorkHandler

NO_BEAT = '{"beats": 0}'
START_TRIES = 3


class SharedObject:
    """The latest problem or task of one kind of work, sent to each worker once.

    Attributes:
        number: of the object; workers name it so.
    """

    def __init__(self, launcher: Launcher, work: Work) -> None:
        self.launcher, self.work = launcher, work
        self.number = -1
        self._object: Any = None
        self._payload: Any = None
        self._held: dict[str, int] = {}

    def put(self, thing: Any) -> None:
        """Replace the object, if ``thing`` is another."""
        if thing is not self._object:
            what = "problem" if self.work is Work.SEARCH else "task"
            self._payload = self.launcher.share(pack(thing, what))
            self._object, self.number = thing, self.number + 1

    def payload_for(self, worker: Worker) -> Any:
        """Payload of the next call; None if this worker already has it, or will by then, as calls
        are handled in order.
        """
        if self._held.get(worker.name) == self.number:
            return None
        self._held[worker.name] = self.number
        return self._payload

    def forget(self, worker: Worker) -> None:
        """``worker`` failed, perhaps to unpack the object."""
        self._held.pop(worker.name, None)

    def preload(self, spares: Iterable[Worker]) -> None:
        """Send it to spares, so that it is there when they are needed."""
        for spare in spares:
            if (payload := self.payload_for(spare)) is not None:
                spare.call(WorkHandler.load, self.work, self.number, payload)


class Placement(NamedTuple):
    """Devices and threads of each rank, in order, and the backend of all."""

    devices: list[str]
    threads: list[int]
    backend: str


def place_ranks(spec: RuntimeSpec, identities: Sequence[Identity], device: str) -> Placement:
    """Where the ranks with these ``identities`` compute.

    NCCL is taken where every rank has a GPU of its own and no graph is asked for; ranks that
    share a GPU, and neighbours in a graph, exchange over Gloo from the CPU.

    Args:
        device: "auto" (GPUs if each rank can have its own), "cpu" or "cuda".
    """
    on_node = Counter(worker.node for worker in identities)
    sharing = Counter((worker.node, worker.visible) for worker in identities)
    own_gpu = all(sharing[worker.node, worker.visible] <= worker.gpus for worker in identities)
    cuda = own_gpu if device == "auto" else device == "cuda"
    if cuda and (without := next((worker for worker in identities if not worker.gpus), None)):
        raise InputError(
            f"device: found 'cuda', but {without.host} has no GPU; accepted 'cpu', 'auto'"
        )
    placed: Counter[tuple[str, str]] = Counter()
    devices, threads = [], []
    for worker in identities:
        gpus = worker.node, worker.visible
        devices.append(f"cuda:{placed[gpus] % worker.gpus}" if cuda else "cpu")
        threads.append(spec.threads or max(1, worker.cores // on_node[worker.node]))
        placed[gpus] += 1
    backend = "nccl" if cuda and own_gpu and spec.graph is None else "gloo"
    return Placement(devices, threads, backend)


class WorkerPool:
    """Workers by rank that stay for many jobs. A lost one is replaced at once, by a spare if one
    is ready.

    Args:
        launcher: starts them; closed with the pool.

    Attributes:
        generation: the current one, -1 before the first.
        job: number of the current search, map or group task.
        ranks: None where no worker could be started.
    """

    def __init__(self, spec: RuntimeSpec, launcher: Launcher, faults: Sequence[Fault]) -> None:
        self.spec, self.launcher, self.faults = spec, launcher, list(faults)
        self.timeout_s = spec.placement_timeout_s
        self.generation = self.job = -1
        self.shared = {work: SharedObject(launcher, work) for work in Work}
        self._identities: dict[str, Identity] = {}
        self._hellos: dict[str, Future[Identity]] = {}
        self._tries: dict[str, int] = {}
        self._count = 0
        self._free: list[int] = []
        self._spare_slots: list[int] = []
        try:
            if spec.graph is not None:
                make_graph(spec.graph, spec.workers)  # refused before anything is started
            self.store, self._address = host_store(launcher.host)
            room, size = launcher.open(spec.workers + spec.spares), spec.workers
            self.ranks: list[Worker | None] = [self._start(s) for s in range(min(size, room))]
            self.spares = [w for s in range(size, room) if (w := self._start(s)) is not None]
        except BaseException:
            launcher.close()
            raise

    def close(self) -> None:
        self.launcher.close()

    @contextmanager
    def working(self, work: Work, thing: Any, watchdog: Watchdog) -> Iterator[None]:
        """One job about ``thing``; on error, workers that are still busy with it are replaced."""
        self.shared[work].put(thing)
        self.job += 1
        try:
            yield
        except BaseException:
            for rank, call in watchdog.calls.items():
                if not call.future.done() and self.ranks[rank] is call.worker:
                    self.replace(rank)
            raise

    def members(self) -> list[Worker]:
        """The workers by rank, once they are up; ranks that stay empty are closed up.

        Raises:
            PlacementError: none is left.
        """
        deadline = time.monotonic() + self.timeout_s
        for rank in range(len(self.ranks)):
            while (worker := self.ranks[rank]) is not None and not self.arrived(rank, deadline):
                wait_for([self.greeting(worker)], max(0.0, deadline - time.monotonic()))
        members = [worker for worker in self.ranks if worker is not None]
        self.ranks = [*members]
        if not members:
            raise PlacementError(
                f"workers: none could be started within {self.timeout_s:g} s; see the logs, or "
                "raise placement_timeout_s"
            )
        return members

    def assignments(self, members: Sequence[Worker]) -> list[RankAssignment]:
        """What each of ``members``, by rank, is in this generation."""
        identities = [self._identities[worker.name] for worker in members]
        placement = place_ranks(self.spec, identities, self.launcher.device)
        folder = None if self.spec.log_folder is None else Path(self.spec.log_folder).resolve()
        return [
            RankAssignment(
                self.generation,
                self.job,
                rank,
                len(members),
                placement.devices[rank],
                placement.threads[rank],
                placement.backend,
                None if folder is None else str(folder / f"rank_{rank}.log"),
                tuple(f for f in self.faults if (f.generation, f.rank) == (self.generation, rank)),
            )
            for rank in range(len(members))
        ]

    def process(self, worker: Worker) -> dict[str, Any]:
        """Its process and machine, for a row."""
        identity = self._identities[worker.name]
        return {"pid": identity.pid, "host": identity.host}

    def greeting(self, worker: Worker) -> Future[Identity]:
        """Done when ``worker`` is up, or dead."""
        return self._hellos[worker.name]

    def arrived(self, rank: int, deadline: float) -> Worker | None:
        """The worker of ``rank`` if it is up, without waiting.

        One that died, or is late by the ``deadline`` (of time.monotonic()), is given up: another
        is started in its place, or the rank stays empty.
        """
        worker = self.ranks[rank]
        if worker is None or self._up(worker):
            return worker
        if self.greeting(worker).done() or time.monotonic() >= deadline:
            self._give_up(rank, worker)
        return None

    def replace(self, rank: int) -> None:
        """End the worker of ``rank`` and put another in its place, without waiting."""
        worker = self.ranks[rank]
        assert worker is not None
        worker.kill()
        spare = next((s for s in self.spares if self._up(s)), None)
        if spare is None:
            self.ranks[rank] = self._start(worker.slot)
            return
        self.spares.remove(spare)
        self.ranks[rank] = spare
        self._spare_slots.append(worker.slot)

    def restock(self) -> None:
        """Start new spares for those used up; later than :meth:`replace`, so that starting them
        does not slow the recovery.
        """
        slots, self._spare_slots = self._spare_slots, []
        self.spares += [w for slot in slots if (w := self._start(slot)) is not None]

    def refill(self) -> None:
        """Try again to have as many ranks as were asked for."""
        free, self._free = self._free, []
        self.ranks += [w for slot in free if (w := self._start(slot)) is not None]

    def _start(self, slot: int) -> Worker | None:
        name = f"w{self._count}"
        self._count += 1
        self.store.set(heartbeat_key(name), NO_BEAT)
        try:
            worker = self.launcher.start(name, slot, self._address)
        except PlacementError:
            self._free.append(slot)
            return None
        self._hellos[name] = worker.call(WorkHandler.hello)
        return worker

    def _up(self, worker: Worker) -> bool:
        hello = self._hellos[worker.name]
        if not hello.done() or isinstance(hello.exception(), WorkerDiedError):
            return False
        self._identities[worker.name] = hello.result()
        return True

    def _give_up(self, rank: int, worker: Worker) -> None:
        """A worker did not come up: try another, unless its time is over."""
        worker.kill()
        late = not self._hellos[worker.name].done()
        tries = self._tries[worker.name] = self._tries.get(worker.name, 0) + 1
        if late or tries >= START_TRIES:
            self._free.append(worker.slot)
            self.ranks[rank] = None
            return
        fresh = self.ranks[rank] = self._start(worker.slot)
        if fresh is not None:
            self._tries[fresh.name] = tries
