"""The workers of a runtime: one a rank, spares that stand by, and replacements."""

from __future__ import annotations

import time
from concurrent.futures import Future
from concurrent.futures import wait as wait_for

from torch.distributed import TCPStore

from gfs_dist.runtime.backends.base import Launcher, PlacementError, Worker, WorkerDiedError
from gfs_dist.runtime.heartbeat import beat_key
from gfs_dist.runtime.messages import Identity
from gfs_dist.runtime.store import Address

EMPTY_BEAT = '{"beats": 0}'
START_TRIES = 3


class Team:
    """Workers by rank. A rank that is lost is filled at once, by a spare if one is ready.

    Args:
        launcher: starts workers.
        store, address: where their signs of life go.
        size: ranks.
        num_spares: workers beyond them.
        placement_timeout_s: how long to wait for a worker to come up.
    """

    def __init__(
        self,
        launcher: Launcher,
        store: TCPStore,
        address: Address,
        size: int,
        num_spares: int,
        placement_timeout_s: float,
    ) -> None:
        self.launcher, self.store, self.address = launcher, store, address
        self.timeout_s = placement_timeout_s
        self.size = size
        self.identities: dict[str, Identity] = {}
        self._hellos: dict[str, Future[Identity]] = {}
        self._tries: dict[str, int] = {}
        self._count = 0
        self._free: list[int] = []
        self._spare_slots: list[int] = []
        room = launcher.open(size + num_spares)
        self.ranks: list[Worker | None] = [self._start(slot) for slot in range(min(size, room))]
        self.spares = [w for s in range(size, room) if (w := self._start(s)) is not None]

    def muster(self) -> list[Worker]:
        """The workers, by rank, once they are up; ranks that stay empty are closed up.

        Raises:
            PlacementError: nobody is left.
        """
        deadline = time.monotonic() + self.timeout_s
        for rank in range(len(self.ranks)):
            while (worker := self.ranks[rank]) is not None and not self.arrived(rank, deadline):
                wait_for([self.greeting(worker)], max(0.0, deadline - time.monotonic()))
        self.ranks = [worker for worker in self.ranks if worker is not None]
        if not self.ranks:
            raise PlacementError(
                f"workers: none could be started within {self.timeout_s:g} s; see the logs, or "
                "raise placement_timeout_s"
            )
        return [worker for worker in self.ranks if worker is not None]

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
        for slot in free:
            if (worker := self._start(slot)) is not None:
                self.ranks.append(worker)

    def _start(self, slot: int) -> Worker | None:
        name = f"w{self._count}"
        self._count += 1
        self.store.set(beat_key(name), EMPTY_BEAT)
        try:
            worker = self.launcher.start(name, slot, self.address)
        except PlacementError:
            self._free.append(slot)
            return None
        self._hellos[name] = worker.call("hello")
        return worker

    def _up(self, worker: Worker) -> bool:
        hello = self._hellos[worker.name]
        if not hello.done() or isinstance(hello.exception(), WorkerDiedError):
            return False
        self.identities[worker.name] = hello.result()
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
