"""What happens while workers work: rows for ``events.jsonl``, and how fast it goes."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

from gfs_dist.records import Event
from gfs_dist.runtime.fault_injection import DRIVER, Fault
from gfs_dist.runtime.progress import Phase

Row = dict[str, Any]


class Journal:
    """The events of one search, map or group task, and the times of its last steps.

    Args:
        faults: those of the coordinator itself are carried out by :meth:`die_if_due`.

    Attributes:
        generation, num_ranks: at the moment.
        events: all rows so far.
    """

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self.generation = 0
        self.num_ranks = 0
        self.events: list[Event] = []
        self._step = 0
        self._told = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=50)
        self._fatal = [f for f in faults if f.rank == DRIVER]

    @property
    def step(self) -> int:
        """How far the work is."""
        return self._step

    def reach(self, step: int) -> None:
        """The work is at ``step`` now."""
        self._step = step
        self.mark()

    def event(self, event: str, rank: int | None = None, **more: Any) -> None:
        """Add a row."""
        row = {"time": time.time(), "event": event, "generation": self.generation, "rank": rank}
        full = {**row, "pid": None, "host": None, "step": self.step, **more}
        self.events.append(cast(Event, full))

    def news(self) -> tuple[Event, ...]:
        """Rows since the last call."""
        rows = tuple(self.events[self._told :])
        self._told = len(self.events)
        return rows

    def common(self, phase: Phase) -> dict[str, Any]:
        """What a report on any work says; takes the rows that are new."""
        return {
            "phase": phase,
            "step": self.step,
            "steps_per_s": self.steps_per_s(),
            "num_ranks": self.num_ranks,
            "generation": self.generation,
            "events": self.news(),
        }

    def mark(self) -> None:
        """Note when :attr:`step` was reached."""
        self._marks.append((time.monotonic(), self.step))

    def forget_marks(self) -> None:
        """What was measured before says nothing about what comes."""
        self._marks.clear()

    def since_mark_s(self) -> float:
        """Seconds since the last mark; infinite before the first."""
        return time.monotonic() - self._marks[-1][0] if self._marks else float("inf")

    def steps_per_s(self) -> float:
        """Steps per second over the last marks."""
        if len(self._marks) < 2:
            return 0.0
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - began) if ended > began else 0.0

    def step_s(self) -> float | None:
        """Median seconds a step over the last marks; None before the second."""
        times = [(b - a) / (k - j) for (a, j), (b, k) in pairwise(self._marks) if k > j]
        return statistics.median(times) if times else None

    def die_if_due(self) -> None:
        """End this process where a scheduled fault of the coordinator says so (tests)."""
        if any(f.generation == self.generation and self.step >= f.step for f in self._fatal):
            os.kill(os.getpid(), signal.SIGKILL)
