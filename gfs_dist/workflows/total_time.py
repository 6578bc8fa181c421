"""Estimates the time of a whole job as soon as the first steps of its phases are measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from gfs_dist.workflows.reporter import Passing, Reporter

ENOUGH_S = 1.0
"""Of steps, before they are a measure of the rest."""


class TotalTime(Passing):
    """Passes everything on to ``reporter``, and notes the time of the whole job there.

    Args:
        parts: kinds of phases, by the first word of their names, and how many of each there are.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        reporter: Reporter,
        parts: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(reporter)
        self._parts = {kind: count for kind, count in parts.items() if count}
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._kind, self._total, self._told = "", 0, ""
        self._first: tuple[float, int] | None = None
        self._began_s = self._last_s = clock()

    def phase(self, name: str, total: int | None = None) -> None:
        if self._first is not None:  # a phase too short for an estimate tells how long it took
            self.measured(self._kind, self._last_s - self._began_s)
        super().phase(name, total)
        self._kind, self._total, self._first = name.partition(" ")[0], total or 0, None
        self._began_s = self._last_s = self._clock()

    def step(self, done: int, loss: float | None = None, **facts: object) -> None:
        super().step(done, loss, **facts)
        self._last_s, most = self._clock(), facts.get("at_most", self._total)
        if self._first is None or not self._first[1]:  # starting and loading are no measure
            self._first = self._last_s, done
        began_s, before = self._first
        if self._kind not in self._seconds and self._last_s - began_s >= ENOUGH_S and done > before:
            assert isinstance(most, int)
            rate = (done - before) / (self._last_s - began_s)
            self.measured(self._kind, max(most, done) / rate)

    def measured(self, kind: str, seconds: float) -> None:
        """One phase of this kind takes so long; tells the total if that is new, or complete."""
        if kind not in self._parts or kind in self._seconds:
            return
        self._seconds[kind] = seconds
        times = {known: s * self._parts[known] for known, s in self._seconds.items()}
        said = ", ".join(f"{known} {duration(s)}" for known, s in times.items())
        missing = [known for known in self._parts if known not in times]
        more = f"; not measured yet: {', '.join(missing)}" if missing else ""
        total = duration(sum(times.values()))
        if total != self._told or not missing:
            self.note(f"time      about {total} in all: {said}{more}")
        self._told = total


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``2.5 h``: no more than an estimate can know."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
