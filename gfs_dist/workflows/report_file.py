"""``report.json`` of a run that prunes a deep network, and the pages beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gfs_dist import report as pages
from gfs_dist.files import RunFolder
from gfs_dist.records import FaultRow
from gfs_dist.workflows.run_lifecycle import lost_results

MEASURED = ("loss", "accuracy", "macs", "params")


class DeepReport:
    """The results of a run folder, those of earlier runs included; written whenever one is new.

    A result of which a file is gone, or not what it was, is none.

    Attributes:
        content: what ``report.json`` holds.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {}
        self._began = time.perf_counter()
        self._before = folder.read_report()
        self._lost = lost_results(folder)
        self._rows: list[dict[str, Any]] = self._before.get("results") or []

    @property
    def status(self) -> str:
        """How the run ended that was here before."""
        return str(self._before.get("status", "finished"))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The results that are whole."""
        return [row for row in self._rows if row["name"] not in self._lost]

    def row(self, name: str) -> dict[str, Any] | None:
        """The result of that name, if there is one."""
        return next((row for row in self.rows if row["name"] == name), None)

    def put(self, row: dict[str, Any]) -> None:
        """Add a result, or write another row in its place."""
        names = [known["name"] for known in self._rows]
        if row["name"] in names:
            self._rows[names.index(row["name"])] = row
        else:
            self._rows.append(row)
        self._lost.discard(row["name"])

    def write(
        self,
        status: str,
        timing: Mapping[str, Any] | None = None,
        faults: Sequence[FaultRow] = (),
        error: BaseException | None = None,
    ) -> None:
        """Write ``report.json`` and, once there are results, the pages and plots.

        Without a timing, that of the run before stays.
        """
        total_s = time.perf_counter() - self._began
        known = self._before.get("timing") or {"total_s": total_s}
        rows = self.rows
        last = next((row for row in reversed(rows) if "dense" in row), None)
        self.content = {
            "format": 1,
            "job": "prune",
            "status": status,
            "dense": last and last["dense"],
            "results": rows,
            "timing": known if timing is None else {"total_s": total_s, **timing},
            "faults": [*(self._before.get("faults") or []), *faults],
            "notes": [f"{row['name']}: {row['sizing']['reason']}" for row in rows],
            "machine": pages.machine(),
            "versions": pages.versions(),
        }
        if error is not None:
            self.content["error"] = str(error) or type(error).__name__
        self.content = self.folder.write_report(self.content)
        if rows:
            pages.write(self.folder.path, self.content, self.folder.read_paths(rows))
        self.folder.written()
