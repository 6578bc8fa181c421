"""Collects what the items of a map come to, and passes it on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from gfs_dist.records import FaultRow, RankTiming, Timing
from gfs_dist.runtime.event_log import Journal, Row
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.progress import MapProgress, MapResult, OnItem, Phase


class MapJournal(Journal):
    """The journal of a map; its step is the number of finished items.

    Args:
        total: items.
        on_progress: called for each as it is finished, in the caller's thread.
        faults: see :class:`Journal`.
    """

    def __init__(
        self, total: int, on_progress: OnItem | None, faults: Sequence[Fault] = ()
    ) -> None:
        super().__init__(faults)
        self.total, self.on_progress = total, on_progress
        self.values: dict[int, Any] = {}
        self.began = time.perf_counter()
        self.setup_s = 0.0
        self._spent: dict[int, Row] = {}

    def prepared(self, rank: int, seconds: float) -> None:
        """A worker of ``rank`` can take its first item."""
        if not self._spent:
            self.setup_s = time.perf_counter() - self.began
        self._row(rank)["setup_s"] += seconds

    def done(self, place: int, value: Any, rank: int, seconds: float, peak_bytes: int) -> None:
        """Rank ``rank`` has finished the item at ``place``."""
        self.values[place] = value
        row = self._row(rank)
        row["items"] += 1
        row["compute_s"] += seconds
        row["peak_rss_bytes"] = max(row["peak_rss_bytes"], peak_bytes)
        self.event("step", rank, step=place)
        self.reach(len(self.values))
        if self.on_progress is not None:
            self.on_progress(
                MapProgress(place=place, value=value, total=self.total, **self.common(Phase.WORK))
            )
        self.die_if_due()

    def result(self, who: Mapping[int, Row], faults: Sequence[FaultRow] = ()) -> MapResult:
        """The end of the map; ``who`` tells pid and host of each rank that is left."""
        self.event("finished")
        wall_s = time.perf_counter() - self.began - self.setup_s
        ranks = []
        for rank in sorted({*self._spent, *who}):
            row = {"rank": rank, "pid": None, "host": None, **who.get(rank, {}), **self._row(rank)}
            row["wait_s"] = max(0.0, wall_s - row["setup_s"] - row["compute_s"])
            ranks.append(row)
        rows = cast(list[RankTiming], ranks)
        timing: Timing = {"setup_s": self.setup_s, "steps_s": wall_s, "ranks": rows}
        values = [self.values[place] for place in range(self.total)]
        return MapResult(values=values, timing=timing, faults=list(faults), events=self.events)

    def _row(self, rank: int) -> Row:
        zero = {"items": 0, "setup_s": 0.0, "compute_s": 0.0, "peak_rss_bytes": 0}
        return self._spent.setdefault(rank, zero)
