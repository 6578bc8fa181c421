"""Work of all ranks in one group, begun anew after every fault until it is done.

A *generation* is one set of ranks with one process group. It ends when the work is done or at the
first fault; then lost ranks are filled, survivors keep what they have computed, and the next
generation goes on from the furthest that any rank knew. Answers of older generations are never
read: their calls are over, their keys carry another number.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gfs_dist.errors import WorkersLostError
from gfs_dist.records import Timing as TimingRow
from gfs_dist.runtime.backends.base import Worker
from gfs_dist.runtime.cargo import Cargo
from gfs_dist.runtime.crew import Crew
from gfs_dist.runtime.fault_log import FaultLog
from gfs_dist.runtime.group_journal import GroupJournal
from gfs_dist.runtime.messages import Finished, Interrupted, Post
from gfs_dist.runtime.progress import Phase
from gfs_dist.runtime.timing import Timing, summary
from gfs_dist.runtime.tracker import Tracker
from gfs_dist.runtime.watchdog import POLL_S, Call, Outcome, Patience, Watch

MAX_FUTILE = 3
EAGER_POLL_S = 0.005


@dataclass
class Verdict:
    """What became of the calls of a generation, by rank.

    Attributes:
        values: answers.
        dead: "killed" or "hung".
        reasons: a line on each fault.
        errors: errors of the user, to be raised.
        trouble: time of the first fault (time.time()), None without.
    """

    values: dict[int, Any] = field(default_factory=dict)
    dead: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)
    trouble: float | None = None

    def take(self, outcome: Outcome) -> None:
        """Add how a call ended."""
        rank, value = outcome.rank, outcome.value
        if outcome.kind == "error":
            self.errors[rank] = value
        elif outcome.kind != "answer":
            self.dead[rank], self.reasons[rank] = outcome.kind, outcome.reason
        else:
            self.values[rank] = value
            if not isinstance(value, Interrupted):
                return
            self.reasons[rank] = value.reason
        if self.trouble is None:
            self.trouble = time.time()

    @property
    def ends(self) -> dict[int, Finished | Interrupted]:
        """Answers to the work itself, by rank."""
        return {r: v for r, v in self.values.items() if isinstance(v, Finished | Interrupted)}

    @property
    def finished(self) -> dict[int, Finished]:
        """Those that came to the end."""
        return {r: v for r, v in self.values.items() if isinstance(v, Finished)}


class Generations(ABC):
    """The generations of one search or group task; subclasses say what it is about.

    Args:
        crew: who works.
        cargo: what about; its kind is also how workers are asked.
        journal: follows rank 0.
    """

    def __init__(self, crew: Crew, cargo: Cargo, journal: Tracker | GroupJournal) -> None:
        self.crew, self.cargo = crew, cargo
        self._journal = journal
        self.patience = Patience(crew.spec.hang_floor_s)
        self.watch = Watch(crew.store, self.patience)
        self.faults = FaultLog(crew.store, journal)
        self.members: list[Worker] = []
        self.posts: list[Post] = []
        self.setup_s = self.steps_s = 0.0

    @property
    @abstractmethod
    def reached(self) -> int:
        """The furthest step that is known to have been made."""

    @abstractmethod
    def arrange(self) -> None:
        """Divide the work among :attr:`posts`."""

    @abstractmethod
    def share(self, rank: int) -> tuple[Any, ...]:
        """What ``rank`` needs to prepare itself."""

    @abstractmethod
    def order(self) -> tuple[Any, ...]:
        """What all ranks need to begin; the journal is to begin, too."""

    @abstractmethod
    def take_over(self, verdict: Verdict) -> None:
        """Learn from what ranks answered how far the work is."""

    @abstractmethod
    def end(self, verdict: Verdict) -> Any:
        """What the work came to; None if it is not at its end."""

    def run(self) -> tuple[Any, TimingRow]:
        """Generations, until one comes to the end: what came out, and its timing."""
        self.crew.team.refill()
        self._journal.report(Phase.START)
        futile = 0
        while futile < MAX_FUTILE:
            began, known = time.perf_counter(), self.reached
            self._muster()
            verdict = self._prepare()
            self.setup_s += time.perf_counter() - began
            if not verdict.trouble:
                began = time.perf_counter()
                verdict = self._work()
                self.steps_s += time.perf_counter() - began
            if (end := self.end(verdict)) is not None:
                self._recovered()
                return end, self._timing(verdict)
            futile = 0 if self.reached > known else futile + 1
        last = self.faults.rows[-1]
        raise WorkersLostError(
            f"workers: {MAX_FUTILE} attempts in a row made no step after step {self.reached}; "
            f"the last fault: rank {last['rank']} {last['kind']}, {last['reason']}"
        )

    def _muster(self) -> None:
        self.crew.begin_generation(self._journal)
        self.members = self.crew.team.muster()
        self._journal.num_ranks = len(self.members)
        self._journal.report(Phase.RECOVERING if self.faults.recovering else Phase.SETUP)
        self.posts = self.crew.posts(self.members)
        self.arrange()

    def _prepare(self) -> Verdict:
        cargo, calls = self.cargo, {}
        for rank, worker in enumerate(self.members):
            load = cargo.number, cargo.to_send(worker)
            future = worker.call(
                f"{cargo.kind}.prepare", self.posts[rank], *load, *self.share(rank)
            )
            calls[rank] = Call(worker, future, setup=True)
            self._journal.event("rank_started", rank, **self.crew.who(worker))
        cargo.preload(self.crew.team.spares)
        return self._attend(calls)

    def _work(self) -> Verdict:
        order = self.order()
        method = f"{self.cargo.kind}.work"
        calls = {r: Call(w, w.call(method, *order)) for r, w in enumerate(self.members)}
        return self._attend(calls)

    def _attend(self, calls: Mapping[int, Call]) -> Verdict:
        """Watch ``calls`` to their ends. Errors of the user are raised here."""
        watch, verdict = self.watch, Verdict()
        watch.trouble = None
        watch.poll_s = EAGER_POLL_S if self.faults.recovering else POLL_S
        for rank, call in calls.items():
            watch.add(rank, call)
        while watch.calls:
            for outcome in watch.poll():
                verdict.take(outcome)
                if outcome.rank in verdict.dead:
                    self.crew.team.replace(outcome.rank)
            if verdict.trouble:
                watch.expect_trouble()
            self._look()
        for rank in verdict.errors:
            self.cargo.forget(self.members[rank])
        if verdict.errors:
            raise verdict.errors[min(verdict.errors)]
        self.take_over(verdict)
        self._note_faults(verdict)
        return verdict

    def _look(self) -> None:
        beat = self.watch.beats.get(0)
        if beat is not None and self._journal.read(self.crew.store, beat):
            self.patience.step_s = self._journal.step_s()
            self._recovered()
            self.watch.poll_s = POLL_S

    def _note_faults(self, verdict: Verdict) -> None:
        kinds = verdict.dead
        if not kinds and verdict.trouble and not verdict.finished:
            kinds = {min(verdict.reasons): "collective"}
        for rank, kind in kinds.items():
            who, reason = self.crew.who(self.members[rank]), verdict.reasons[rank]
            self.faults.note(rank, who, kind, reason, self.reached, verdict.trouble)

    def _recovered(self) -> None:
        self.faults.recovered()
        self.crew.team.restock()

    def _timing(self, verdict: Verdict) -> TimingRow:
        rows = []
        for rank, worker in enumerate(self.members):
            end = verdict.ends.get(rank)
            timing = Timing() if end is None else end.timing
            rows.append({"rank": rank, **self.crew.who(worker), **asdict(timing)})
        return summary(rows, self.setup_s, self.steps_s)
