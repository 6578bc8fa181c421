"""``report.json`` of a run that prunes a deep network, and the pages beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gfs_dist import report as pages
from gfs_dist.files import RunFolder, atomic
from gfs_dist.files.checkpoint import read_json
from gfs_dist.jobs.report import read_paths

MEASURED = ("loss", "accuracy", "macs", "params")


class DeepReport:
    """The results of a run folder, those of earlier runs included; written whenever one is new.

    Attributes:
        content: what ``report.json`` holds.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {}
        self._began = time.perf_counter()
        self._before = read_json(folder.report) if folder.report.is_file() else {}
        self.rows: list[dict[str, Any]] = self._before.get("results") or []

    @property
    def status(self) -> str:
        """How the run ended that was here before."""
        return str(self._before.get("status", "finished"))

    def row(self, name: str) -> dict[str, Any] | None:
        """The result of that name, if there is one."""
        return next((row for row in self.rows if row["name"] == name), None)

    def put(self, row: dict[str, Any]) -> None:
        """Add a result, or write another row in its place."""
        names = [known["name"] for known in self.rows]
        if row["name"] in names:
            self.rows[names.index(row["name"])] = row
        else:
            self.rows.append(row)

    def write(
        self,
        status: str,
        timing: Mapping[str, Any] | None = None,
        faults: Sequence[dict[str, Any]] = (),
        error: BaseException | None = None,
    ) -> None:
        """Write ``report.json`` and, once there are results, the pages and plots.

        Without a timing, that of the run before stays.
        """
        total_s = time.perf_counter() - self._began
        known = self._before.get("timing") or {"total_s": total_s}
        last = next((row for row in reversed(self.rows) if "dense" in row), None)
        self.content = {
            "format": 1,
            "job": "prune",
            "status": status,
            "dense": last and last["dense"],
            "results": self.rows,
            "timing": known if timing is None else {"total_s": total_s, **timing},
            "faults": [*(self._before.get("faults") or []), *faults],
            "notes": [f"{row['name']}: {row['sizing']['reason']}" for row in self.rows],
            "machine": pages.machine(),
            "versions": pages.versions(),
        }
        if error is not None:
            self.content["error"] = str(error) or type(error).__name__
        atomic.write_json(self.folder.report, self.content)
        if self.rows:
            pages.write(self.folder.path, self.content, read_paths(self.folder, self.rows))
        self.folder.written()
