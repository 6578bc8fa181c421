"""Progress of a job as plain lines, for output that is no terminal."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from gfs_dist.urls import is_url
from gfs_dist.workflows.reporter import PlannedOnly, Reporter

if TYPE_CHECKING:
    from gfs_dist.files import RunFolder

LINE_EVERY_S = 15.0
PROGRESS = re.compile(r"(?P<name>.+): (?P<line>step (?P<done>\d+)(/(?P<total>\d+))?(, .*)?)")
"""A line of progress, as :class:`PlainReporter` prints it; the last of a phase has its time."""

RATE_WINDOW_S = 10.0
MAIN_FACTS = ("loss", "kept")


class PlainReporter(Reporter):
    """Lines: every phase, note and result, and a line of progress every ``line_every_s``.

    Args:
        stream: where lines go.
        dry_run: end the job after its plan.
        line_every_s: seconds between lines of progress.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        dry_run: bool = False,
        line_every_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.planned: list[str] = []
        self.folder: str | None = None
        self._stream = stream
        self._dry_run = dry_run
        self._line_every_s = line_every_s
        self._clock = clock
        self._last_line_s = clock()
        self._progress = Progress("", None, self._last_line_s)

    def plan(self, lines: Sequence[str]) -> None:
        self.planned = list(lines)
        for line in lines:
            self._say(line)
        if self._dry_run:
            raise PlannedOnly

    def run_folder(self, folder: RunFolder) -> None:
        self.folder = folder.place

    def phase(self, name: str, total: int | None = None) -> None:
        self.finish_phase()
        self._progress = Progress(name, total, self._clock())
        self._last_line_s = self._clock()
        self._say(name)

    def step(self, done: int, loss: float | None = None, **facts: object) -> None:
        self._progress.update(self._clock(), done, loss=loss, **facts)
        if self._clock() - self._last_line_s >= self._line_every_s:
            self._last_line_s = self._clock()
            self._say(f"{self._progress.name}: {self._progress.line()}")

    def note(self, line: str) -> None:
        self._say(line)

    relay = note

    def finish_phase(self) -> None:
        """The phase is over, whether it took all of its steps or not."""
        if self._progress.done:
            self._say(f"{self._progress.name}: {self._progress.summary(self._clock())}")
        self._progress = Progress("", None, self._clock())

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.finish_phase()
        self._say(f"\n{title}")
        cells = [list(columns), *([show(value) for value in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        for row in cells:
            self._say("  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)))

    def next(self, commands: Sequence[str]) -> None:
        if self.folder is not None:
            self._say(f"\nrun folder: {self.folder}")
        if self.folder is not None and is_url(self.folder):
            return  # they name files of the working copy, which ends with the job
        for command in commands:
            self._say(f"next: {command}")

    def close(self) -> None:
        """The job is over, well or not."""

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


@dataclass
class Progress:
    """Steps of a phase, their rate, and the time left.

    The rate is that of the last ``RATE_WINDOW_S`` seconds, counted from the first report of steps:
    the time before it (starting, loading, replaying a resumed run) is no measure.
    """

    name: str
    total: int | None
    began_s: float
    done: int = 0
    facts: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seen = deque([(self.began_s, 0)])

    def update(self, now_s: float, done: int, **facts: object) -> None:
        if done <= self._seen[0][1] or not self._seen[-1][1]:
            self._seen.clear()
        self.done, self.facts = done, facts
        self._seen.append((now_s, done))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= RATE_WINDOW_S:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Steps per second; None while nothing has come after the first ones."""
        (then_s, before), (now_s, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now_s - then_s) if done > before and now_s > then_s else None

    @property
    def left_s(self) -> float | None:
        """Seconds left, as the job knows them or at this rate, at most; None where unknown."""
        if isinstance(known := self.facts.get("left_s"), float):
            return known
        if self.rate is None or self.total is None:
            return None
        return max(0, self.total - self.done) / self.rate

    def line(self) -> str:
        """One line, the most important first: a narrow terminal cuts the end off."""
        parts = self._main_parts()
        if self.rate is not None and "left_s" not in self.facts:
            parts.append(f"{self.rate:.3g} steps/s")
        if self.left_s is not None:
            parts.append(f"{duration(self.left_s)} left")
        others = {k: v for k, v in self.facts.items() if k not in (*MAIN_FACTS, "left_s")}
        parts += [f"{k} {show(v)}" for k, v in others.items()]
        return ", ".join(parts)

    def summary(self, now_s: float) -> str:
        return ", ".join([*self._main_parts(), f"took {duration(now_s - self.began_s)}"])

    def _main_parts(self) -> list[str]:
        of = "" if self.total is None else f"/{self.total}"
        known = [(name, self.facts.get(name)) for name in MAIN_FACTS]
        return [f"step {self.done}{of}", *(f"{n} {show(v)}" for n, v in known if v is not None)]


def show(value: object) -> str:
    """A value for reading: 5 significant digits, thousands apart, ``-`` for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """``1.2 s``, ``12 s``, ``3:05``, ``2:03:05``."""
    total = round(seconds)
    if total < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{total} s"
    hours, minutes = divmod(total // 60, 60)
    return f"{hours}:{minutes:02}:{total % 60:02}" if hours else f"{minutes}:{total % 60:02}"
