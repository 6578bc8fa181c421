"""The report of a suite of ``gfs benchmark``, and its tables as they are shown."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from gfs_dist import report as pages
from gfs_dist.config import commands as schema
from gfs_dist.config.compose import to_yaml
from gfs_dist.files import RunFolder
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import failure_reported

Row = Mapping[str, object]
"""Of a table that is only shown; rows that are read have types of their own."""


@dataclass(frozen=True)
class Sizes:
    """How much a suite measures; fields are named as keys of the configuration."""

    workers: tuple[int, ...]
    repeats: int

    def with_keys(self, config: schema.Benchmark) -> Self:
        """What the keys say, else these of a preset; one rank is always measured."""
        given = {field.name: getattr(config, field.name) for field in fields(self)}
        sizes = replace(self, **{key: value for key, value in given.items() if value is not None})
        return replace(sizes, workers=tuple(sorted({1, *sizes.workers})))


class SuiteReport:
    """The report of a suite in its run folder.

    Attributes:
        rows: results.
        tables: what else was found, by title.
        notes: sentences.
        content: of ``report.json``, as last written.
    """

    def __init__(
        self, config: schema.Benchmark, folder: RunFolder, reporter: Reporter, notes: Sequence[str]
    ) -> None:
        self.config, self.folder, self.reporter, self.notes = config, folder, reporter, [*notes]
        self.rows: list[Row] = []
        self.tables: defaultdict[str, list[Row]] = defaultdict(list)
        self.content: dict[str, Any] = {}
        self._began = time.perf_counter()

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, config: schema.Benchmark, reporter: Reporter, notes: Sequence[str]
    ) -> Iterator[SuiteReport]:
        """A new run folder; its report says how the run ended, if it does not end well."""
        with RunFolder.create(config.out, to_yaml(config)) as folder:
            reporter.run_folder(folder)
            report = cls(config, folder, reporter, notes)
            with failure_reported(report.write):
                yield report
            report.write("finished")

    def note(self, line: str) -> None:
        """A sentence for the report, shown at once."""
        self.notes.append(line)
        self.reporter.note(line)

    def show(
        self, title: str, rows: Sequence[Row], columns: Sequence[str] | Mapping[str, str] = ()
    ) -> None:
        """A table of some columns (with their titles, if given), or those of the first row.

        Of spreads the median is shown, of hashes the beginning; under the title ``MiB``, bytes.
        """
        if not rows:
            return
        titles = {key: key.replace("_", " ") for key in columns or rows[0]}
        if isinstance(columns, Mapping):
            titles = {**columns}

        def cell(row: Row, key: str) -> object:
            value = row.get(key)
            if isinstance(value, dict):
                return value["median"]
            if isinstance(value, int) and titles[key] == "MiB":
                return value / 2**20
            return value[:8] if isinstance(value, str) and len(value) == 64 else value

        cells = [[cell(row, key) for key in titles] for row in rows]
        self.reporter.table(title, list(titles.values()), cells)

    def keep(self, status: str = "stopped", error: BaseException | None = None) -> None:
        """Write what is there so far: another end is written later, unless the process dies."""
        words = {} if error is None else {"error": str(error) or type(error).__name__}
        content = {
            "format": 1,
            "job": "benchmark",
            "suite": self.config.suite,
            "status": status,
            **words,
            "results": self.rows,
            "tables": self.tables,
            "timing": {"total_s": time.perf_counter() - self._began},
            "faults": [],
            "machine": pages.machine(),
            "versions": pages.versions(),
            "notes": self.notes,
        }
        self.content = self.folder.write_report(content)
        self.folder.written()

    def write(self, status: str, error: BaseException | None = None) -> None:
        """Write report and pages."""
        self.keep(status, error)
        pages.write(self.folder.path, self.content, {})
        self.folder.written()
