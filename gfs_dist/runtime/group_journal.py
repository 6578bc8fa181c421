"""Follows a group task as rank 0 tells it, and passes it on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch.distributed import TCPStore

from gfs_dist.runtime.event_log import Journal
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.heartbeat import Beat
from gfs_dist.runtime.news import Piece, read_parts
from gfs_dist.runtime.progress import GroupProgress, OnGroupProgress, Phase

EVENT_PERIOD_S = 1.0  # training may take days


class GroupJournal(Journal):
    """The journal of a group task; its step is the last that rank 0 has ticked.

    Args:
        on_progress: called at most some twenty times a second, in the caller's thread.
        faults: see :class:`Journal`.
    """

    def __init__(self, on_progress: OnGroupProgress | None, faults: Sequence[Fault] = ()) -> None:
        super().__init__(faults)
        self.on_progress = on_progress
        self._values: list[tuple[int, Any]] = []
        self._parts = self._ticked = 0
        self._noted = -EVENT_PERIOD_S

    def begin(self, generation: int, num_ranks: int) -> None:
        """A generation starts to work."""
        self.generation, self.num_ranks = generation, num_ranks
        self._parts = self._ticked = 0
        self.forget_marks()
        self.report(Phase.WORK)

    def read(self, store: TCPStore, beat: Beat) -> bool:
        """Fetch what rank 0 has told since; whether it has made a step."""
        if beat.generation != self.generation:
            return False
        for part in read_parts(store, self.generation, self._parts, beat.parts):
            self.add(part)
        self._parts = beat.parts
        return self.step_there(beat.step)

    def add(self, part: Piece | None) -> None:
        """Take over values, to be passed on with the next report."""
        self._values += [(step, value) for step, value in part["values"]] if part else []

    def step_here(self, step: int, period_s: float) -> None:
        """A step was ticked in this process; told at most every ``period_s``."""
        if self.since_mark_s() >= period_s:
            self.step_there(step)
        self._step = step

    def step_there(self, step: int) -> bool:
        """Whether ``step`` is new in this generation; if so, it is told."""
        if step <= self._ticked:
            return False
        self._ticked = step
        self.reach(step)
        if time.monotonic() - self._noted >= EVENT_PERIOD_S:
            self._noted = time.monotonic()
            self.event("step", rank=0)
        self.report(Phase.WORK)
        return True

    def report(self, phase: Phase) -> None:
        """Call the caller."""
        if self.on_progress is not None:
            values, self._values = tuple(self._values), []
            self.on_progress(GroupProgress(values=values, **self.common(phase)))
        self.die_if_due()
