"""Observes the runtime of a run: its events go into the run folder, times and faults add up."""

from __future__ import annotations

from typing import Any, cast

from gfs_dist.files import RunFolder
from gfs_dist.records import FaultRow, RankTiming, Timing
from gfs_dist.runtime import RuntimeObserver, Work, WorkProgress, WorkResult
from gfs_dist.workflows.process import fault_words
from gfs_dist.workflows.reporter import Reporter

SUMMED = ("items", "messages", "bytes")
"""Counts of a rank that add up, besides its seconds."""
LOSSES = ("fault", "recovered")


class RunEvents(RuntimeObserver):
    """Writes ``events.jsonl`` and says when a rank is lost; sums timing and faults.

    Of a map's events only lost workers are written, as it may have thousands of items. Events of a
    group task are the business of its own listener.

    Attributes:
        where: what is worked on, in every row of events; empty for nothing.
        faults: rows of all searches, maps and group tasks.
    """

    def __init__(self, folder: RunFolder, reporter: Reporter) -> None:
        self._folder, self._reporter = folder, reporter
        self.where = ""
        self.faults: list[FaultRow] = []
        self._timings: list[Timing] = []
        self._started: set[tuple[Any, ...]] = set()

    def on_progress(self, work: Work, progress: WorkProgress) -> None:
        for row in progress.events:
            if work is Work.GROUP or (work is Work.MAP and row["event"] not in LOSSES):
                continue
            if row["event"] == "rank_started":
                process = (row["rank"], row["pid"], row["host"])
                if process in self._started:
                    continue
                self._started.add(process)
            self._folder.append_event({**row, "layer": self.where} if self.where else row)
            if row["event"] in LOSSES:
                self._reporter.note(fault_words(row))

    def on_result(self, work: Work, result: WorkResult) -> None:
        self.faults += result.faults
        self._timings.append(result.timing)

    def timing(self) -> dict[str, Any]:
        """Seconds of everything so far, and of each rank, as ``report.json`` has them.

        A rank that waits for items exchanges nothing: that wait is its ``idle_s``.
        """
        totals = {
            key: sum(cast(dict[str, Any], timing).get(key) or 0.0 for timing in self._timings)
            for key in ("setup_s", "steps_s", "exchange_s", "wait_s")
        }
        ranks: dict[int, dict[str, Any]] = {}
        for timing in self._timings:
            for row in timing["ranks"]:
                _add(ranks.setdefault(row["rank"], {}), row)
        return {**totals, "ranks": [ranks[rank] for rank in sorted(ranks)]}


def _add(total: dict[str, Any], row: RankTiming) -> None:
    """Add one row of a rank to what it has so far."""
    idle = "exchange_s" not in row
    for key, value in cast(dict[str, Any], row).items():
        name = "idle_s" if idle and key == "wait_s" else key
        if name.endswith("_s") or name in SUMMED:
            total[name] = total.get(name, 0) + value
        elif name == "peak_rss_bytes":
            total[name] = max(total.get(name, 0), value)
        else:
            total[name] = value
