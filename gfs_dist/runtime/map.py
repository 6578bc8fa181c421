"""One map over many workers, whatever happens to them.

Nobody waits for anybody: an idle rank takes the next item, what a lost one had in hand is done
first, and its successor joins in when it is up.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from reprlib import repr as brief
from typing import Any

from gfs_dist.errors import WorkersLostError
from gfs_dist.runtime.backends.base import Worker
from gfs_dist.runtime.cargo import Cargo
from gfs_dist.runtime.crew import Crew
from gfs_dist.runtime.fault_log import FaultLog
from gfs_dist.runtime.map_journal import MapJournal
from gfs_dist.runtime.messages import Done, Identity
from gfs_dist.runtime.progress import MapResult, OnItem
from gfs_dist.runtime.serialization import pack, unpack
from gfs_dist.runtime.watchdog import Call, Outcome, Patience, Watch

MAX_LOSSES = 3


class Mapping:
    """One map: a single generation.

    Args:
        crew, cargo: who does what.
        items: in the order of results.
        on_progress: called in this thread.

    Attributes:
        members: the worker of each rank, the last one where none is up.
        coming: ranks whose worker is not up, and until when it is waited for.
        idle: ranks that could do an item.
        in_hand: places of the items that ranks work on.
        turns: items that each rank was given, and one for its set-up.
        losses: workers lost in a row, by what they were lost over.
    """

    def __init__(
        self, crew: Crew, cargo: Cargo, items: Sequence[Any], on_progress: OnItem | None
    ) -> None:
        self.crew, self.cargo, self.team, self.items = crew, cargo, crew.team, items
        self.packed = [pack(item, f"item {place}") for place, item in enumerate(items)]
        self.journal = MapJournal(len(items), on_progress, crew.faults)
        self.watch = Watch(crew.store, Patience(crew.spec.hang_floor_s))
        self.faults = FaultLog(crew.store, self.journal)
        self.waiting = deque(range(len(items)))
        self.members: list[Worker] = []
        self.coming: dict[int, float] = {}
        self.idle: deque[int] = deque()
        self.in_hand: dict[int, int] = {}
        self.turns: Counter[int] = Counter()
        self.losses: Counter[str] = Counter()

    def result(self) -> MapResult:
        """The map, to its end."""
        self.crew.begin_generation(self.journal)
        if self.items:
            self._run()
        self.faults.recovered()
        who = {rank: self.crew.who(worker) for rank, worker in enumerate(self.members)}
        return self.journal.result(who, self.faults.rows)

    def _run(self) -> None:
        self.team.refill()
        self.members = self.team.muster()
        self.cargo.preload(self.team.spares)
        for rank in range(len(self.members)):
            self._prepare(rank)
        while self.journal.step < len(self.items):
            self._receive()
            self._hand_out()
            outcomes = self.watch.poll(self._greetings())
            in_hand = [self.in_hand.pop(outcome.rank, None) for outcome in outcomes]
            self.idle += [outcome.rank for outcome in outcomes if outcome.kind == "answer"]
            self._hand_out()  # before on_progress, which may take its time
            for outcome, place in zip(outcomes, in_hand, strict=True):
                self._take(outcome, place)

    def _prepare(self, rank: int) -> None:
        worker, cargo = self.members[rank], self.cargo
        post = self.crew.posts(self.members)[rank]
        due = tuple(fault for fault in post.faults if fault.step >= self.turns[rank])
        self.turns[rank] = max(1, self.turns[rank])
        load = cargo.number, cargo.to_send(worker)
        future = worker.call("map.prepare", replace(post, faults=due), *load)
        self.watch.add(rank, Call(worker, future, setup=True))
        self.journal.event("rank_started", rank, **self.crew.who(worker))

    def _receive(self) -> None:
        """Let those begin that have come up; do without those that will not come."""
        for rank, deadline in [*self.coming.items()]:
            if (worker := self.team.arrived(rank, deadline)) is not None:
                del self.coming[rank]
                self.members[rank] = worker
                self._prepare(rank)
            elif self.team.ranks[rank] is None:
                del self.coming[rank]
        if not (self.coming or self.idle or self.watch.calls):
            last = self.faults.rows[-1]
            raise WorkersLostError(
                f"workers: none is left and none could be started; the last fault: rank "
                f"{last['rank']} {last['kind']}, {last['reason']}"
            )

    def _hand_out(self) -> None:
        """Give idle ranks what waits."""
        while self.idle and self.waiting:
            rank, place = self.idle.popleft(), self.waiting.popleft()
            worker = self.members[rank]
            future = worker.call("map.work", self.turns[rank], self.packed[place])
            self.watch.add(rank, Call(worker, future))
            self.turns[rank] += 1
            self.in_hand[rank] = place

    def _greetings(self) -> list[Future[Identity]]:
        workers = [self.team.ranks[rank] for rank in self.coming]
        return [self.team.greeting(worker) for worker in workers if worker is not None]

    def _take(self, outcome: Outcome, place: int | None) -> None:
        """How the item at ``place`` ended, or the set-up of a rank."""
        if outcome.kind == "error":
            self.cargo.forget(outcome.call.worker)
            raise outcome.value
        if outcome.kind != "answer":
            self._lose(outcome, place)
        elif place is None:
            self._prepared(outcome.rank, outcome.value)
        else:
            self._done(outcome.rank, place, outcome.value)

    def _prepared(self, rank: int, seconds: float) -> None:
        self.losses[_set_up(rank)] = 0
        self.journal.prepared(rank, seconds)
        self.faults.recovered(lambda row: (row["rank"], row["step"]) == (rank, None))
        self.team.restock()

    def _done(self, rank: int, place: int, done: Done) -> None:
        patience = self.watch.patience
        patience.step_s = max(patience.step_s or 0.0, done.pause_s)
        self.faults.recovered(lambda row: row["step"] == place, place)
        self.journal.num_ranks = len(self.idle) + len(self.watch.calls)
        self.journal.done(place, unpack(done.value), rank, done.seconds, done.peak_rss_bytes)

    def _lose(self, outcome: Outcome, place: int | None) -> None:
        rank, kind, reason = outcome.rank, outcome.kind, outcome.reason
        self.faults.note(rank, self.crew.who(outcome.call.worker), kind, reason, place)
        what = _set_up(rank) if place is None else f"item {place} ({brief(self.items[place])})"
        self.losses[what] += 1
        if self.losses[what] >= MAX_LOSSES:
            raise WorkersLostError(
                f"workers: {what} lost {MAX_LOSSES} workers in a row; the last: rank {rank} "
                f"{kind}, {reason}"
            )
        if place is not None:
            self.waiting.appendleft(place)
        self.team.replace(rank)
        self.coming[rank] = time.monotonic() + self.team.timeout_s


def _set_up(rank: int) -> str:
    return f"the set-up of rank {rank}"
