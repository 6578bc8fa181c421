"""One task that all workers do together, whatever happens to them."""

from __future__ import annotations

from typing import Any

from gfs_dist.runtime.cargo import Cargo
from gfs_dist.runtime.crew import Crew
from gfs_dist.runtime.group import Generations, Verdict
from gfs_dist.runtime.group_journal import GroupJournal
from gfs_dist.runtime.messages import Interrupted
from gfs_dist.runtime.progress import GroupResult, OnGroupProgress, Phase
from gfs_dist.runtime.serialization import unpack


class Together(Generations):
    """Every generation starts the task, which goes on from its own checkpoint.

    Args:
        crew, cargo: who does what.
        on_progress: called in this thread.
    """

    def __init__(self, crew: Crew, cargo: Cargo, on_progress: OnGroupProgress | None) -> None:
        self.journal = GroupJournal(on_progress, crew.faults)
        super().__init__(crew, cargo, self.journal)
        self._furthest = 0

    @property
    def reached(self) -> int:
        return self._furthest

    def arrange(self) -> None:
        pass

    def share(self, rank: int) -> tuple[Any, ...]:
        return ()

    def order(self) -> tuple[Any, ...]:
        self.journal.begin(self.crew.generation, len(self.posts))
        return ()

    def take_over(self, verdict: Verdict) -> None:
        beats = [b for b in self.watch.beats.values() if b.generation == self.crew.generation]
        told = [end.value for end in verdict.ends.values() if isinstance(end, Interrupted)]
        self._furthest = max([self._furthest, *told, *(beat.step for beat in beats)])
        if (first := verdict.ends.get(0)) is not None:
            self.journal.add(first.untold)

    def end(self, verdict: Verdict) -> Any:
        return verdict.finished.get(0)

    def result(self) -> GroupResult:
        """The task, to its end."""
        finished, timing = self.run()
        self.journal.event("finished")
        self.journal.report(Phase.WORK)
        value = unpack(finished.value)
        return GroupResult(
            value=value, timing=timing, faults=self.faults.rows, events=self.journal.events
        )
