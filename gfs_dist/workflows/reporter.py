"""What a job says while it works, whatever shows it: a terminal, a log, a tracker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch: a command line that is wrong does not wait for it
    from gfs_dist.files import RunFolder


class PlannedOnly(Exception):  # noqa: N818 - not an error
    """Raised by :meth:`Reporter.plan` where the user wanted the plan alone (``--dry-run``)."""


class Reporter:
    """Called by jobs, in this order: plan, run_folder, (phase, step ..., note) ..., table, next.

    This one shows nothing.
    """

    def plan(self, lines: Sequence[str]) -> None:
        """What is about to be done, before anything is written or any worker is started.

        Raises:
            PlannedOnly: the job ends here.
        """

    def run_folder(self, folder: RunFolder) -> None:
        """The run folder exists now: an interrupted run can be resumed from it."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A new phase begins; ``total`` steps at most, None if that is not known."""

    def step(self, done: int, loss: float | None = None, **facts: object) -> None:
        """``done`` steps of the phase are finished. Cheap: may be called for every step.

        Of ``facts``, ``left_s`` are the seconds left, where the job knows better than the rate.
        """

    def note(self, line: str) -> None:
        """Something worth a line of its own: a lost worker, a method chosen."""

    def relay(self, line: str) -> None:
        """A line that the reporter of a job elsewhere has said."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A result; numbers as numbers, None where there is no value."""

    def next(self, commands: Sequence[str]) -> None:
        """The commands that make sense now."""


class Passing(Reporter):
    """A reporter that passes everything on to another one."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def plan(self, lines: Sequence[str]) -> None:
        self._reporter.plan(lines)

    def run_folder(self, folder: RunFolder) -> None:
        self._reporter.run_folder(folder)

    def phase(self, name: str, total: int | None = None) -> None:
        self._reporter.phase(name, total)

    def step(self, done: int, loss: float | None = None, **facts: object) -> None:
        self._reporter.step(done, loss, **facts)

    def note(self, line: str) -> None:
        self._reporter.note(line)

    def relay(self, line: str) -> None:
        self._reporter.relay(line)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self._reporter.table(title, columns, rows)

    def next(self, commands: Sequence[str]) -> None:
        self._reporter.next(commands)
