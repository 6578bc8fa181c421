"""Follows the path of a search as rank 0 writes it, and passes it on."""

from __future__ import annotations

from collections.abc import Sequence

from torch.distributed import TCPStore

from gfs_dist.runtime.event_log import Journal
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.heartbeat import Beat
from gfs_dist.runtime.news import extend, read_parts
from gfs_dist.runtime.progress import OnProgress, Phase, Progress
from gfs_dist.selection.path import GreedyPath


class Tracker(Journal):
    """The journal of a search.

    Args:
        path: picks known at the start.
        on_progress: called at most some twenty times a second, in the caller's thread.
        faults: see :class:`Journal`.
    """

    def __init__(
        self, path: GreedyPath, on_progress: OnProgress | None, faults: Sequence[Fault] = ()
    ) -> None:
        super().__init__(faults)
        self.path = path
        self.on_progress = on_progress
        self._parts = 0

    @property
    def step(self) -> int:
        """Picks made."""
        return len(self.path)

    def begin(self, generation: int, path: GreedyPath, num_ranks: int) -> None:
        """A generation starts to search at the end of ``path``."""
        self.generation, self.path, self.num_ranks = generation, path, num_ranks
        self._parts = 0
        self.forget_marks()
        self.report(Phase.SEARCH)

    def read(self, store: TCPStore, beat: Beat) -> bool:
        """Fetch what rank 0 has written since; whether there was anything."""
        if beat.generation != self.generation or beat.parts <= self._parts:
            return False
        for part in read_parts(store, self.generation, self._parts, beat.parts):
            extend(self.path, part)
        self._parts = beat.parts
        self._stepped()
        return True

    def step_here(self, period_s: float) -> None:
        """A step was made in this process; told at most every ``period_s``."""
        if self.since_mark_s() >= period_s:
            self._stepped()

    def _stepped(self) -> None:
        self.event("step", rank=0)
        self.mark()
        self.report(Phase.SEARCH)

    def report(self, phase: Phase) -> None:
        """Call the caller."""
        if self.on_progress is not None:
            self.on_progress(Progress(path=self.path, **self.common(phase)))
        self.die_if_due()
