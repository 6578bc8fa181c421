"""A runtime that is watched: its events go into the run folder, its times and faults add up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from gfs_dist.files import RunFolder
from gfs_dist.runtime import (
    GroupResult,
    GroupTask,
    MapProgress,
    MapResult,
    OnDone,
    OnGroupProgress,
    OnProgress,
    Problem,
    Progress,
    Runtime,
    SearchResult,
    Task,
)
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from gfs_dist.workflows.process import fault_words
from gfs_dist.workflows.reporter import Reporter

SUMMED = ("items", "messages", "bytes")
"""Counts of a rank that add up, besides its seconds."""


class Watched:
    """Passes everything on to ``runtime``, and notes what happens.

    Attributes:
        where: what is worked on, in every row of events; empty if nothing is.
        faults: rows of all searches, maps and group tasks.
    """

    def __init__(self, runtime: Runtime, folder: RunFolder, reporter: Reporter) -> None:
        self._runtime, self._folder, self._reporter = runtime, folder, reporter
        self.where = ""
        self.faults: list[dict[str, Any]] = []
        self._timings: list[dict[str, Any]] = []
        self._started: set[tuple[Any, ...]] = set()

    @property
    def num_ranks(self) -> int:
        return self._runtime.num_ranks

    def search(
        self,
        problem: Problem,
        stop: Stop,
        partition: Partition | None = None,
        *,
        path: GreedyPath | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        """See :meth:`gfs_dist.runtime.worker_runtime.WorkersRuntime.search`."""

        def listen(progress: Progress) -> None:
            self._tell(progress.events)
            if on_progress is not None:
                on_progress(progress)

        found = self._runtime.search(problem, stop, partition, path=path, on_progress=listen)
        self._note(found)
        return found

    def map(self, task: Task, items: Sequence[Any], on_done: OnDone | None = None) -> MapResult:
        """See :meth:`gfs_dist.runtime.worker_runtime.WorkersRuntime.map`.

        Of its events those of lost workers are told: there are thousands of items.
        """

        def listen(place: int, value: Any, progress: MapProgress) -> None:
            self._tell(row for row in progress.events if row["event"] in ("fault", "recovered"))
            if on_done is not None:
                on_done(place, value, progress)

        found = self._runtime.map(task, items, listen)
        self._note(found)
        return found

    def run_group(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        """See :meth:`gfs_dist.runtime.worker_runtime.WorkersRuntime.run_group`."""
        found = self._runtime.run_group(task, on_progress)
        self._note(found)
        return found

    def close(self) -> None:
        self._runtime.close()

    def __enter__(self) -> Self:
        self._runtime.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._runtime.__exit__(*exception)

    def timing(self) -> dict[str, Any]:
        """Seconds of everything so far, and of each rank, as ``report.json`` has them.

        A rank that waits for items exchanges nothing: that wait is its ``idle_s``.
        """
        totals = {
            key: sum(timing.get(key) or 0.0 for timing in self._timings)
            for key in ("setup_s", "steps_s", "exchange_s", "wait_s")
        }
        ranks: dict[int, dict[str, Any]] = {}
        for timing in self._timings:
            for row in timing["ranks"]:
                _add(ranks.setdefault(row["rank"], {}), row)
        return {**totals, "ranks": [ranks[rank] for rank in sorted(ranks)]}

    def _note(self, found: SearchResult | MapResult | GroupResult) -> None:
        self.faults += found.faults
        self._timings.append(found.timing)

    def _tell(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            if row["event"] == "rank_started":
                who = (row["rank"], row["pid"], row["host"])
                if who in self._started:
                    continue
                self._started.add(who)
            self._folder.append_event({**row, "layer": self.where} if self.where else row)
            if row["event"] in ("fault", "recovered"):
                self._reporter.note(fault_words(row))


def _add(total: dict[str, Any], row: dict[str, Any]) -> None:
    """Add one row of a rank to what it has so far."""
    idle = "exchange_s" not in row
    for key, value in row.items():
        name = "idle_s" if idle and key == "wait_s" else key
        if name.endswith("_s") or name in SUMMED:
            total[name] = total.get(name, 0) + value
        elif name == "peak_rss_bytes":
            total[name] = max(total.get(name, 0), value)
        else:
            total[name] = value
