"""What a caller sees of a search: how far it is, what went wrong, what it cost."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch.distributed import TCPStore

from gfs_dist.runtime.faults import DRIVER, Fault
from gfs_dist.runtime.pulse import Beat, extend, part_key
from gfs_dist.selection.path import Path

Row = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        phase: "start" (workers), "setup" (objectives), "search" or "recovering".
        path: picks made so far; the coordinator goes on writing to it, so copy what you keep.
        steps_per_s: over the last seconds; 0.0 before the second report.
        num_ranks: ranks at work.
        events: rows for ``events.jsonl`` that are new since the last report.
    """

    phase: str
    path: Path
    steps_per_s: float
    num_ranks: int
    generation: int = 0
    events: tuple[Row, ...] = ()

    @property
    def num_kept(self) -> int:
        """Distinct picks so far."""
        return self.path.num_kept


@dataclass(frozen=True)
class SearchResult:
    """The end of a search.

    Attributes:
        path: the picks; the same for any number of ranks and faults.
        timing: seconds; see :func:`gfs_dist.runtime.coordinator.summary`.
        faults: one row each: time (seconds since 1970), rank, kind ("killed", "hung" or
            "collective"), step (picks made by then), recovered_s (from its detection to the first
            new step), detected_s (from a scheduled fault to its detection, else None), reason.
        events: one row each: time event generation rank pid host step.
    """

    path: Path
    timing: Row
    faults: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)


OnProgress = Callable[[Progress], None]


class Tracker:
    """Collects the news of a search and passes it on.

    Args:
        path: picks known at the start.
        on_progress: called at most some twenty times a second, in the caller's thread.
        faults: those of the coordinator itself are carried out here, after the report.
    """

    def __init__(
        self, path: Path, on_progress: OnProgress | None, faults: Sequence[Fault] = ()
    ) -> None:
        self.path = path
        self.on_progress = on_progress
        self.generation = 0
        self.num_ranks = 0
        self.phase = "start"
        self.events: list[Row] = []
        self._reported = 0
        self._parts = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=50)
        self._fatal = [f for f in faults if f.rank == DRIVER]

    def begin(self, generation: int, path: Path, num_ranks: int) -> None:
        """A generation starts to search at the end of ``path``."""
        self.generation, self.path, self.num_ranks = generation, path, num_ranks
        self._parts = 0
        self._marks.clear()
        self.report("search")

    def read(self, store: TCPStore, beat: Beat) -> bool:
        """Fetch what rank 0 has written since; whether there was anything."""
        if beat.generation != self.generation or beat.parts <= self._parts:
            return False
        for number in range(self._parts, beat.parts):
            key = part_key(self.generation, number)
            part = json.loads(store.get(key))
            store.delete_key(key)
            extend(self.path, part, part["first"], part["first_gap"])
        self._parts = beat.parts
        self.event("step", rank=0)
        self._marks.append((time.monotonic(), len(self.path)))
        self.report("search")
        return True

    def step(self, period_s: float) -> None:
        """A step was made in this process; told at most every ``period_s``."""
        now = time.monotonic()
        if now - (self._marks[-1][0] if self._marks else 0.0) < period_s:
            return
        self._marks.append((now, len(self.path)))
        self.event("step", rank=0)
        self.report("search")

    def event(self, event: str, rank: int | None = None, **more: Any) -> None:
        """Add a row for ``events.jsonl``."""
        row = {"time": time.time(), "event": event, "generation": self.generation, "rank": rank}
        self.events.append({**row, "pid": None, "host": None, "step": len(self.path), **more})

    def report(self, phase: str) -> None:
        """Call the caller."""
        self.phase = phase
        if self.on_progress is not None:
            news = tuple(self.events[self._reported :])
            self._reported = len(self.events)
            rate = self.steps_per_s()
            self.on_progress(
                Progress(phase, self.path, rate, self.num_ranks, self.generation, news)
            )
        if any(f.generation == self.generation and len(self.path) >= f.step for f in self._fatal):
            os.kill(os.getpid(), signal.SIGKILL)

    def steps_per_s(self) -> float:
        """Steps per second over the last reports."""
        if len(self._marks) < 2:
            return 0.0
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - began) if ended > began else 0.0

    def step_s(self) -> float | None:
        """Median seconds a step over the last reports; None before the second."""
        marks = list(self._marks)
        times = [(b - a) / (k - j) for (a, j), (b, k) in pairwise(marks)]
        return statistics.median(times) if times else None
