"""What all suites of ``gfs benchmark`` share: the report, spreads, rows of a table."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from gfs_dist import report as pages
from gfs_dist.config import commands as schema
from gfs_dist.config.compose import to_yaml
from gfs_dist.files import RunFolder
from gfs_dist.runtime import RuntimeSpec
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import failure_reported

Row = dict[str, Any]


class Bench:
    """The report of a suite in its run folder.

    Attributes:
        rows: results.
        tables: what else was found, by title.
        notes: sentences.
    """

    def __init__(self, config: schema.Benchmark, folder: RunFolder, notes: Sequence[str]) -> None:
        self.config, self.folder, self.notes = config, folder, list(notes)
        self.rows: list[Row] = []
        self.tables: dict[str, list[Row]] = {}
        self.content: dict[str, Any] = {}
        self._began = time.perf_counter()

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, config: schema.Benchmark, reporter: Reporter, notes: Sequence[str]
    ) -> Iterator[Bench]:
        """A new run folder; its report says how the run ended, if it does not end well."""
        with RunFolder.create(config.out, to_yaml(config)) as folder:
            reporter.run_folder(folder)
            bench = cls(config, folder, notes)
            with failure_reported(bench.write):
                yield bench
            bench.write("finished")

    def keep(self) -> None:
        """Write what is there so far: another end is written later, unless the process dies."""
        self._write_json("stopped")
        self.folder.written()

    def write(self, status: str, error: BaseException | None = None) -> None:
        """Write report and pages."""
        self._write_json(status, error)
        pages.write(self.folder.path, self.content, {})
        self.folder.written()

    def _write_json(self, status: str, error: BaseException | None = None) -> None:
        words = {} if error is None else {"error": str(error) or type(error).__name__}
        self.content = {
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
        self.content = self.folder.write_report(self.content)


def runtime_spec(config: schema.Benchmark, workers: int, threads: int, device: str) -> RuntimeSpec:
    """Ranks of the kind that the configuration asks for."""
    known = {key: value for key, value in vars(config.runtime).items() if key != "kind"}
    return RuntimeSpec(
        kind=config.runtime.kind, workers=workers, device=device, threads=threads, **known
    )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of repeated measurements."""
    return {
        "median": statistics.median(values), "minimum": min(values), "maximum": max(values),
    }  # fmt: skip


def tell_rows(reporter: Reporter, title: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """A table of some columns; of spreads the median."""

    def cell(value: Any) -> Any:
        return value["median"] if isinstance(value, dict) else value

    header = [column.replace("_", " ") for column in columns]
    reporter.table(title, header, [[cell(row.get(key)) for key in columns] for row in rows])
