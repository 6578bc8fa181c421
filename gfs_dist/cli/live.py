"""The live display of a terminal: a bar for every phase, the last one moving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich import progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gfs_dist.cli.display import PROGRESS, PlainReporter, show

MIN_COLUMNS = 40
"""Of a terminal: bars need a name, themselves and some facts."""

UNBOUNDED = 2**20
"""Columns of a terminal that holds any table."""


class LiveReporter(PlainReporter):
    """A :class:`PlainReporter` whose progress is drawn in place."""

    def __init__(self, stream: TextIO, *, dry_run: bool = False) -> None:
        super().__init__(stream, dry_run=dry_run, line_every_s=float("inf"))
        self._console = Console(file=stream, highlight=False)
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("{task.fields[line]}", markup=False),
            console=self._console,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar: progress.TaskID | None = None

    @property
    def has_room(self) -> bool:
        """Whether the terminal can draw in place, and is wide enough to."""
        return not self._console.is_dumb_terminal and self._console.width >= MIN_COLUMNS

    def phase(self, name: str, total: int | None = None) -> None:
        super().phase(name, total)
        self._bars.start()
        self._bar = self._bars.add_task(name, total=total, line="")

    def finish_phase(self) -> None:
        if self._bar is not None:
            done = max(self._progress.done, 1)  # a stop rule ends a phase before its last step
            line = self._progress.summary(self._clock())
            self._bars.update(self._bar, total=done, completed=done, line=line)
            self._bar = None

    def step(self, done: int, loss: float | None = None, **facts: object) -> None:
        super().step(done, loss, **facts)
        if self._bar is not None:
            self._bars.update(self._bar, completed=done, line=self._progress.line())

    def relay(self, line: str) -> None:
        """Progress of another process moves a bar; any other line stands above it."""
        found = PROGRESS.fullmatch(line)
        if found is None:
            if self._bar is None:
                self.close()  # so that the line stands below the bar
            self._say(line)
            return
        done, total = int(found["done"]), int(found["total"]) if found["total"] else None
        if self._bar is None:
            self._bars.start()
            self._bar = self._bars.add_task(found["name"], total=total, line="")
        self._bars.update(self._bar, completed=done, line=found["line"])
        if ", took " in found["line"]:
            self._bars.update(self._bar, total=max(done, 1), completed=max(done, 1))
            self._bar = None

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.finish_phase()
        self.close()
        drawn = Table(title=Text(title), title_justify="left")
        for column in columns:
            drawn.add_column(Text(column), justify="right")
        for row in rows:
            drawn.add_row(*(Text(show(value)) for value in row))
        anywhere = self._console.options.update(max_width=UNBOUNDED)
        if self._console.measure(drawn, options=anywhere).minimum > self._console.width:
            super().table(title, columns, rows)  # cells would be cut
        else:
            self._console.print(drawn)

    def close(self) -> None:
        self._bar = None
        self._bars.stop()
        for task in self._bars.task_ids:
            self._bars.remove_task(task)

    def _say(self, line: str) -> None:
        if line != self._progress.name:  # its bar shows it
            self._console.print(Text(line), soft_wrap=True)
