"""Observes the runtime of a run: its events go into the run folder, times and faults add up."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any, cast

from gfs_dist.files import RunFolder
from gfs_dist.records import Event, EventKind, FaultRow, RankTiming, Timing
from gfs_dist.runtime import RuntimeObserver, Work, WorkProgress, WorkResult
from gfs_dist.workflows.reporter import Reporter

UNTOLD = {Work.MAP: ("rank_started", "step", "finished"), Work.GROUP: ("step",)}
"""Rows that are not written: a map may have thousands of items, and of a training the steps worth
a row are the checkpoints."""


class RunEvents(RuntimeObserver):
    """Writes ``events.jsonl`` and says when a rank is lost; sums timing and faults.

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
        self._first = {"generation": 0, "pid": os.getpid(), "host": socket.gethostname()}

    def on_progress(self, work: Work, progress: WorkProgress) -> None:
        for row in progress.events:
            if row["event"] in UNTOLD.get(work, ()):
                continue
            if row["event"] == "rank_started":
                process = (row["rank"], row["pid"], row["host"])
                if process in self._started:
                    continue
                self._started.add(process)
                if row["rank"] == 0:
                    known = cast(dict[str, Any], row)
                    self._first = {key: known[key] for key in self._first}
            self._folder.append_event({**row, "layer": self.where} if self.where else row)
            if row["event"] in ("fault", "recovered"):
                self._reporter.note(fault_words(row))

    def on_result(self, work: Work, result: WorkResult) -> None:
        self.faults += result.faults
        self._timings.append(result.timing)

    def first_rank(self, event: EventKind, step: int) -> None:
        """Write a row about rank 0, which is this process where no workers have started."""
        row: Event = {
            "time": time.time(),
            "event": event,
            "generation": 0,
            "rank": 0,
            "pid": None,
            "host": None,
            "step": step,
        }
        self._folder.append_event(cast(Event, {**row, **self._first}))

    def timing(self) -> Timing:
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
        return cast(Timing, {**totals, "ranks": [ranks[rank] for rank in sorted(ranks)]})


def step_times(folder: RunFolder) -> dict[int, float]:
    """When each step in ``events.jsonl`` was last reached, seconds since 1970; a torn row is none.

    Another process may be writing the file.
    """
    times: dict[int, float] = {}
    if not folder.events.is_file():
        return times
    for line in folder.events.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("event") == "step":
                step, at = row.get("step"), row.get("time")
                if isinstance(step, int) and isinstance(at, float):
                    times[step] = at
    return times


def fault_words(row: Event) -> str:
    """An event ``fault`` or ``recovered`` of ranks, in words."""
    at = "" if row["step"] is None else f" at step {row['step']}"
    if row["event"] == "recovered":
        return f"rank {row['rank']} is back, work goes on{at}"
    return f"rank {row['rank']} was {row.get('kind', 'lost')}{at}: replacing it"


def _add(total: dict[str, Any], row: RankTiming) -> None:
    idle = "exchange_s" not in row
    for key, value in cast(dict[str, Any], row).items():
        name = "idle_s" if idle and key == "wait_s" else key
        if name.endswith("_s") or name in ("items", "messages", "bytes"):
            total[name] = total.get(name, 0) + value
        elif name == "peak_rss_bytes":
            total[name] = max(total.get(name, 0), value)
        else:
            total[name] = value
