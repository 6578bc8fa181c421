"""Work of all ranks in one process group, begun anew after every fault until it is done.

A *generation* is one set of ranks with one process group. It ends when the work is done or at the
first fault; then lost ranks are filled, survivors keep what they have computed, and the next
generation continues from the furthest step that any rank knew. Answers of older generations are
never read: their calls are over, their keys carry another number.

A search is such work whose ranks keep an objective between generations, and a group task one whose
ranks keep their own checkpoint.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

from gfs_dist.errors import WorkersLostError
from gfs_dist.records import RankTiming, Timing
from gfs_dist.runtime.backends.base import Worker
from gfs_dist.runtime.event_log import TASK_EVENT_PERIOD_S, EventLog
from gfs_dist.runtime.graph import Graph, graph_for
from gfs_dist.runtime.heartbeat import FeedEntry, read_feed
from gfs_dist.runtime.messages import GroupEnd, SearchSetup, unpack
from gfs_dist.runtime.progress import (
    GroupProgress,
    GroupResult,
    OnGroupProgress,
    OnProgress,
    Phase,
    Progress,
    SearchResult,
    Work,
)
from gfs_dist.runtime.resources import group_timing, no_time
from gfs_dist.runtime.spec import SearchJob
from gfs_dist.runtime.watchdog import (
    POLL_S,
    CallOutcome,
    Ending,
    Watchdog,
    WatchedCall,
)
from gfs_dist.runtime.worker import WorkHandler
from gfs_dist.runtime.worker_pool import WorkerPool
from gfs_dist.selection.partition import Partition

MAX_FUTILE = 3
EAGER_POLL_S = 0.005


@dataclass
class GenerationOutcome:
    """How the calls of a generation ended, by rank.

    Attributes:
        ends: of the work; there are none after set-up.
        lost: killed or hung.
        reasons: a line on each fault.
        errors: errors of the user, to be raised.
        fault_time: of the first fault (time.time()), None without.
    """

    ends: dict[int, GroupEnd] = field(default_factory=dict)
    lost: dict[int, Ending] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)
    fault_time: float | None = None

    def add(self, outcome: CallOutcome) -> None:
        """Add how a call ended."""
        rank, value = outcome.rank, outcome.value
        if outcome.ending is Ending.ERROR:
            self.errors[rank] = value
        elif outcome.ending is not Ending.ANSWER:
            self.lost[rank], self.reasons[rank] = outcome.ending, outcome.reason
        else:
            if isinstance(value, GroupEnd):
                self.ends[rank] = value
            if not isinstance(value, GroupEnd) or value.interruption is None:
                return
            self.reasons[rank] = value.interruption
        if self.fault_time is None:
            self.fault_time = time.time()

    @property
    def finished(self) -> dict[int, GroupEnd]:
        """Those that finished the work."""
        return {rank: end for rank, end in self.ends.items() if end.interruption is None}


class GroupRun(ABC):
    """The generations of one search or group task; subclasses say what differs.

    Args:
        step: where the work begins.

    Attributes:
        phase: of progress while ranks work.
        event_period_s: at most one row a step is written in so many seconds.
        reached: the furthest step that is known to have been made.
        resumed_at: step at which the current generation begins; 0 if only its ranks know.
        members: workers of the current generation, by rank.
    """

    work: ClassVar[Work]
    phase: ClassVar[Phase]
    event_period_s: ClassVar[float]

    def __init__(self, pool: WorkerPool, step: int = 0) -> None:
        self.pool, self.reached = pool, step
        self.log = EventLog(pool.faults, pool.store)
        self.log.step = step
        self.watchdog = Watchdog(pool.store, pool.spec.hang_floor_s)
        self.resumed_at = 0
        self.members: list[Worker] = []
        self._setup_s = self._steps_s = 0.0
        self._chunks = self._reported = 0

    @abstractmethod
    def report(self, phase: Phase) -> None:
        """Report progress to the caller."""

    def setups(self, num_ranks: int) -> Sequence[SearchSetup | None]:
        """What each rank needs to prepare itself, besides the problem or task."""
        return [None] * num_ranks

    @abstractmethod
    def take_feed(self, entries: list[FeedEntry], step: int) -> int:
        """Take new entries of rank 0's feed, and its ``step``; the step that is reached."""

    @abstractmethod
    def take_over(self, ends: Mapping[int, GroupEnd]) -> int:
        """Take the state of the work from the answers of ranks; the furthest step among them."""

    @abstractmethod
    def final(self, finished: Mapping[int, GroupEnd]) -> GroupEnd | None:
        """The answer that is the result of the work; None if it is not among ``finished``."""

    def run(self) -> tuple[GroupEnd, Timing]:
        """Run generations until one finishes; its answer, and the timing of all."""
        self.pool.refill()
        self.report(Phase.START)
        futile = 0
        while futile < MAX_FUTILE:
            began, known = time.perf_counter(), self.reached
            outcome = self._prepare()
            self._setup_s += time.perf_counter() - began
            if outcome.fault_time is None:
                began = time.perf_counter()
                outcome = self._work()
                self._steps_s += time.perf_counter() - began
            if (end := self.final(outcome.finished)) is not None:
                self._recovered()
                return end, self._timing(outcome)
            futile = 0 if self.reached > known else futile + 1
        raise WorkersLostError(
            f"workers: {MAX_FUTILE} attempts in a row made no step after step {self.reached}; "
            f"the last fault: {self.log.last_fault()}"
        )

    def _prepare(self) -> GenerationOutcome:
        """Gather workers, and let each prepare itself for its rank."""
        pool, shared = self.pool, self.pool.shared[self.work]
        pool.generation += 1
        self.members = pool.members()
        self.log.begin(pool.generation, len(self.members))
        self.report(Phase.RECOVERING if self.log.recovering else Phase.SETUP)
        calls, setups = {}, self.setups(len(self.members))
        for rank, assignment in enumerate(pool.assignments(self.members)):
            worker, setup = self.members[rank], setups[rank]
            load = shared.number, shared.payload_for(worker)
            future = worker.call(WorkHandler.prepare, assignment, self.work, *load, setup)
            calls[rank] = WatchedCall(worker, future, setup=True)
            self.log.event("rank_started", rank, **pool.process(worker))
        shared.preload(pool.spares)
        return self._watch(calls)

    def _work(self) -> GenerationOutcome:
        """Let all ranks join the group and work."""
        self._chunks, self._reported = 0, self.resumed_at
        self.report(self.phase)
        run, members = WorkHandler.run_group, enumerate(self.members)
        return self._watch({r: WatchedCall(w, w.call(run, self.work)) for r, w in members})

    def _watch(self, calls: Mapping[int, WatchedCall]) -> GenerationOutcome:
        """Watch ``calls`` to their ends. Errors of the user are raised here."""
        watchdog, outcome = self.watchdog, GenerationOutcome()
        watchdog.fault_at = None
        watchdog.poll_s = EAGER_POLL_S if self.log.recovering else POLL_S
        for rank, call in calls.items():
            watchdog.add(rank, call)
        while watchdog.calls:
            for ended in watchdog.poll():
                outcome.add(ended)
                if ended.rank in outcome.lost:
                    self.pool.replace(ended.rank)
            if outcome.fault_time is not None and watchdog.fault_at is None:
                watchdog.fault_at = time.monotonic()
            self._read_feed()
        for rank in outcome.errors:
            self.pool.shared[self.work].forget(self.members[rank])
        if outcome.errors:
            raise outcome.errors[min(outcome.errors)]
        self.reached = max(self.reached, self.take_over(outcome.ends))
        self._note_faults(outcome)
        return outcome

    def _read_feed(self) -> None:
        """Take what is new in rank 0's feed, and report it if it is a step."""
        beat = self.watchdog.beats.get(0)
        if beat is None or beat.generation != self.pool.generation:
            return
        entries = read_feed(self.pool.store, beat.generation, self._chunks, beat.chunks)
        self._chunks = beat.chunks
        step = self.take_feed(entries, beat.step)
        if step <= self._reported:
            return
        self._reported, self.reached = step, max(self.reached, step)
        self.log.reach(step)
        self.log.note_step(self.event_period_s)
        self.report(self.phase)
        self.watchdog.timeouts.step_s = self.log.step_s()
        self._recovered()
        self.watchdog.poll_s = POLL_S

    def _note_faults(self, outcome: GenerationOutcome) -> None:
        kinds: dict[int, str] = {rank: ending.value for rank, ending in outcome.lost.items()}
        if not kinds and outcome.fault_time is not None and not outcome.finished:
            kinds = {min(outcome.reasons): "collective"}
        for rank, kind in kinds.items():
            process, reason = self.pool.process(self.members[rank]), outcome.reasons[rank]
            self.log.fault(rank, process, kind, reason, self.reached, outcome.fault_time)

    def _recovered(self) -> None:
        self.log.recovered()
        self.pool.restock()

    def _timing(self, outcome: GenerationOutcome) -> Timing:
        rows = []
        for rank, worker in enumerate(self.members):
            spent = outcome.ends[rank].timing if rank in outcome.ends else no_time()
            row = {"rank": rank, **self.pool.process(worker), **spent}
            rows.append(cast(RankTiming, row))
        return group_timing(rows, self._setup_s, self._steps_s)


class SearchRun(GroupRun):
    """One search: every generation continues from the longest path that any rank knew."""

    work = Work.SEARCH
    phase = Phase.SEARCH
    event_period_s = 0.0

    def __init__(self, pool: WorkerPool, job: SearchJob, callback: OnProgress | None) -> None:
        super().__init__(pool, len(job.path))
        self.stop, self.path, self.callback = job.stop, job.path, callback
        candidates = job.problem.num_candidates
        self.partition = job.partition or Partition.contiguous(candidates, pool.spec.workers)
        self.partition.require(candidates)
        self.graph: Graph | None = None

    def report(self, phase: Phase) -> None:
        self.log.report(self.callback, Progress, phase, path=self.path)

    def setups(self, num_ranks: int) -> list[SearchSetup]:
        if self.partition.num_ranks != num_ranks:
            self.partition = self.partition.over(num_ranks)
        before, self.graph = self.graph, graph_for(self.pool.spec, num_ranks, self.graph)
        if self.graph is not None and before is not None and self.graph is not before:
            self.log.event("graph", edges=[list(edge) for edge in self.graph.edges])
        self.resumed_at = len(self.path)
        shares = map(self.partition.share, range(num_ranks))
        rest = self.partition, self.stop, self.path, self.graph
        return [SearchSetup(share, *rest) for share in shares]

    def take_feed(self, entries: list[FeedEntry], step: int) -> int:
        for k, (pick, loss, step_size, gaps) in entries:
            self.path.append(pick, loss, step_size)
            self.path.gap[k - len(gaps) : k] = gaps
        return len(self.path)

    def take_over(self, ends: Mapping[int, GroupEnd]) -> int:
        longest = max([self.path, *(end.value for end in ends.values())], key=len)
        self.path = longest.prefix(len(longest))
        self.log.step = len(longest)
        return len(longest)

    def final(self, finished: Mapping[int, GroupEnd]) -> GroupEnd | None:
        return finished[min(finished)] if finished else None

    def result(self) -> SearchResult:
        """The search, to its end."""
        end, timing = self.run()
        self.path, log = end.value, self.log
        log.event("finished")
        self.report(self.phase)
        return SearchResult(path=self.path, timing=timing, faults=log.faults, events=log.events)


class TaskRun(GroupRun):
    """One group task: every generation starts the task, which resumes from its own checkpoint."""

    work = Work.GROUP
    phase = Phase.WORK
    event_period_s = TASK_EVENT_PERIOD_S

    def __init__(self, pool: WorkerPool, callback: OnGroupProgress | None) -> None:
        super().__init__(pool)
        self.callback = callback
        self._values: list[FeedEntry] = []

    def report(self, phase: Phase) -> None:
        values, self._values = tuple(self._values), []
        self.log.report(self.callback, GroupProgress, phase, values=values)

    def take_feed(self, entries: list[FeedEntry], step: int) -> int:
        self._values += entries
        return step

    def take_over(self, ends: Mapping[int, GroupEnd]) -> int:
        self._values += ends[0].unsent if 0 in ends else []
        beats = [b for b in self.watchdog.beats.values() if b.generation == self.pool.generation]
        return max([0, *(beat.step for beat in beats), *(end.step for end in ends.values())])

    def final(self, finished: Mapping[int, GroupEnd]) -> GroupEnd | None:
        return finished.get(0)

    def result(self) -> GroupResult:
        """The task, to its end."""
        end, timing = self.run()
        value, log = unpack(end.value), self.log
        log.event("finished")
        self.report(self.phase)
        return GroupResult(value=value, timing=timing, faults=log.faults, events=log.events)
