"""Items done by workers, each by any one of them; lost workers are replaced meanwhile.

No rank waits for another: an idle one takes the next item, what a lost one had in hand is done
first, and its successor joins in when it is up. A map is a single generation.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from reprlib import repr as brief
from typing import Any, cast

from gfs_dist.errors import WorkersLostError
from gfs_dist.records import RankTiming, Timing
from gfs_dist.runtime.backends.base import Worker
from gfs_dist.runtime.event_log import EventLog
from gfs_dist.runtime.messages import ItemDone, pack, unpack
from gfs_dist.runtime.progress import MapProgress, MapResult, OnItem, Phase, Work
from gfs_dist.runtime.watchdog import CallOutcome, Ending, Watchdog, WatchedCall
from gfs_dist.runtime.worker import WorkHandler
from gfs_dist.runtime.worker_pool import WorkerPool

MAX_LOSSES = 3


class MapResults:
    """The values of a map's items, and the time each rank spent on them.

    Args:
        total: items.
        callback: called for each as it is done, in the caller's thread.
        log: of the map; its step is the number of items that are done.
    """

    def __init__(self, total: int, callback: OnItem | None, log: EventLog) -> None:
        self.total, self.callback, self.log = total, callback, log
        self.values: dict[int, Any] = {}
        self._began = time.perf_counter()
        self._setup_s = 0.0
        self._spent: dict[int, RankTiming] = {}

    def prepared(self, rank: int, seconds: float) -> None:
        """A worker of ``rank`` can take its first item."""
        if not self._spent:
            self._setup_s = time.perf_counter() - self._began
        self._row(rank)["setup_s"] += seconds

    def done(self, place: int, value: Any, rank: int, seconds: float, peak_rss_bytes: int) -> None:
        """Rank ``rank`` has done the item at ``place``."""
        self.values[place] = value
        row = self._row(rank)
        row["items"] += 1
        row["compute_s"] += seconds
        row["peak_rss_bytes"] = max(row["peak_rss_bytes"], peak_rss_bytes)
        self.log.event("step", rank, step=place)
        self.log.reach(len(self.values))
        more = {"place": place, "value": value, "total": self.total}
        self.log.report(self.callback, MapProgress, Phase.WORK, **more)

    def result(self, processes: Mapping[int, dict[str, Any]]) -> MapResult:
        """The end of the map; ``processes`` has pid and host of each rank that is left."""
        self.log.event("finished")
        wall_s = time.perf_counter() - self._began - self._setup_s
        ranks = []
        for rank in sorted({*self._spent, *processes}):
            process, spent = processes.get(rank, {"pid": None, "host": None}), self._row(rank)
            wait_s = max(0.0, wall_s - spent["setup_s"] - spent["compute_s"])
            ranks.append(cast(RankTiming, {"rank": rank, **process, **spent, "wait_s": wait_s}))
        timing: Timing = {"setup_s": self._setup_s, "steps_s": wall_s, "ranks": ranks}
        values = [self.values[place] for place in range(self.total)]
        return MapResult(
            values=values, timing=timing, faults=self.log.faults, events=self.log.events
        )

    def _row(self, rank: int) -> RankTiming:
        zero: RankTiming = {"items": 0, "setup_s": 0.0, "compute_s": 0.0, "peak_rss_bytes": 0}
        return self._spent.setdefault(rank, zero)


class MapRun:
    """One map by workers.

    Attributes:
        keep: whether ranks keep to their own items.
        members: the worker of each rank, the last one where none is up.
        coming: ranks whose worker is not up, and until when it is waited for.
        idle: ranks that could do an item.
        in_hand: places of the items that ranks work on.
        turns: items that each rank was given, and one for its set-up.
        losses: workers lost in a row, by what they were lost over.
    """

    def __init__(
        self, pool: WorkerPool, items: Sequence[Any], keep: bool, callback: OnItem | None
    ) -> None:
        self.pool, self.shared, self.items = pool, pool.shared[Work.MAP], items
        self.keep = keep
        self.packed = [pack(item, f"item {place}") for place, item in enumerate(items)]
        self.log = EventLog(pool.faults, pool.store)
        self.results = MapResults(len(items), callback, self.log)
        self.watchdog = Watchdog(pool.store, pool.spec.hang_floor_s)
        self.waiting = deque(range(len(items)))
        self.members: list[Worker] = []
        self.coming: dict[int, float] = {}
        self.idle: deque[int] = deque()
        self.in_hand: dict[int, int] = {}
        self.turns: Counter[int] = Counter()
        self.losses: Counter[str] = Counter()

    def result(self) -> MapResult:
        """The map, to its end."""
        self.pool.generation += 1
        self.log.begin(self.pool.generation, self.pool.spec.workers)
        if self.items:
            self._run()
        self.log.recovered()
        return self.results.result(dict(enumerate(map(self.pool.process, self.members))))

    def _run(self) -> None:
        pool = self.pool
        pool.refill()
        self.members = pool.members()
        self.shared.preload(pool.spares)
        for rank in range(len(self.members)):
            self._prepare(rank)
        while self.log.step < len(self.items):
            self._receive()
            self._hand_out()
            coming = [pool.ranks[rank] for rank in self.coming]
            outcomes = self.watchdog.poll([pool.greeting(w) for w in coming if w is not None])
            in_hand = [self.in_hand.pop(outcome.rank, None) for outcome in outcomes]
            self.idle += [o.rank for o in outcomes if o.ending is Ending.ANSWER]
            self._hand_out()  # before the report, as the callback may take long
            for outcome, place in zip(outcomes, in_hand, strict=True):
                self._take(outcome, place)

    def _prepare(self, rank: int) -> None:
        worker, shared = self.members[rank], self.shared
        assignment = self.pool.assignments(self.members)[rank]
        due = tuple(fault for fault in assignment.faults if fault.step >= self.turns[rank])
        self.turns[rank] = max(1, self.turns[rank])
        assignment, payload = replace(assignment, faults=due), shared.payload_for(worker)
        future = worker.call(WorkHandler.prepare, assignment, Work.MAP, shared.number, payload)
        self.watchdog.add(rank, WatchedCall(worker, future, setup=True))
        self.log.event("rank_started", rank, **self.pool.process(worker))

    def _receive(self) -> None:
        """Prepare workers that are up by now, and drop those that could not be started."""
        for rank, deadline in [*self.coming.items()]:
            if (worker := self.pool.arrived(rank, deadline)) is not None:
                del self.coming[rank]
                self.members[rank] = worker
                self._prepare(rank)
            elif self.pool.ranks[rank] is None:
                del self.coming[rank]
        if not (self.coming or self.idle or self.watchdog.calls):
            raise WorkersLostError(
                "workers: none is left and none could be started; the last fault: "
                f"{self.log.last_fault()}"
            )

    def _hand_out(self) -> None:
        """Give idle ranks what waits."""
        for _ in range(len(self.idle)):
            rank = self.idle.popleft()
            place = next((place for place in self.waiting if self._may_do(rank, place)), None)
            if place is None:
                self.idle.append(rank)
                continue
            self.waiting.remove(place)
            worker = self.members[rank]
            future = worker.call(WorkHandler.do_item, self.turns[rank], self.packed[place])
            self.watchdog.add(rank, WatchedCall(worker, future))
            self.turns[rank] += 1
            self.in_hand[rank] = place

    def _may_do(self, rank: int, place: int) -> bool:
        """Whether an item is the rank's own, or that of a rank that is not up."""
        owner = place * len(self.members) // len(self.items)
        lost = owner in self.coming or self.pool.ranks[owner] is None
        return not self.keep or owner == rank or lost

    def _take(self, outcome: CallOutcome, place: int | None) -> None:
        """How the item at ``place`` ended, or the set-up of a rank."""
        rank, log = outcome.rank, self.log
        if outcome.ending is Ending.ERROR:
            self.shared.forget(outcome.call.worker)
            raise outcome.value
        if outcome.ending is not Ending.ANSWER:
            self._lose(outcome, place)
        elif place is None:
            self.losses[_setup_of(rank)] = 0
            self.results.prepared(rank, outcome.value)
            log.recovered(lambda row: (row["rank"], row["step"]) == (rank, None))
            self.pool.restock()
        else:
            done: ItemDone = outcome.value
            timeouts = self.watchdog.timeouts
            timeouts.step_s = max(timeouts.step_s or 0.0, done.pause_s)
            log.recovered(lambda row: row["step"] == place, place)
            log.num_ranks = len(self.idle) + len(self.watchdog.calls)
            value = unpack(done.value)
            self.results.done(place, value, rank, done.seconds, done.peak_rss_bytes)

    def _lose(self, outcome: CallOutcome, place: int | None) -> None:
        rank, kind, reason = outcome.rank, outcome.ending.value, outcome.reason
        self.log.fault(rank, self.pool.process(outcome.call.worker), kind, reason, place)
        what = _setup_of(rank) if place is None else f"item {place} ({brief(self.items[place])})"
        self.losses[what] += 1
        if self.losses[what] >= MAX_LOSSES:
            raise WorkersLostError(
                f"workers: {what} lost {MAX_LOSSES} workers in a row; the last: rank {rank} "
                f"{kind}, {reason}"
            )
        if place is not None:
            self.waiting.appendleft(place)
        self.pool.replace(rank)
        self.coming[rank] = time.monotonic() + self.pool.timeout_s


def _setup_of(rank: int) -> str:
    return f"the set-up of rank {rank}"
