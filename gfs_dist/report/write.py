"""Write the pages and plots of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gfs_dist.errors import InputError
from gfs_dist.files import atomic
from gfs_dist.records import Paths
from gfs_dist.report.facts import Run
from gfs_dist.report.render import to_html, to_markdown
from gfs_dist.report.sections import page


def write(folder: str | Path, report: Mapping[str, Any], paths: Paths) -> None:
    """Write ``report.md``, ``report.html`` and ``plots/*.png`` into a run folder.

    What a run has no facts for is left out: a stopped run, one without accuracy or theory gives
    a shorter page. The configuration is quoted from the folder's ``config.yaml`` if it is there.

    Args:
        folder: the run folder; made if it does not exist.
        report: what ``report.json`` holds (:class:`gfs_dist.records.Report`), of any version.
        paths: what the path files hold, by result and layer.

    Raises:
        InputError: the report has no job.
        StorageError: a file could not be written.
    """
    # Matplotlib costs most of a second and is needed here only.
    from gfs_dist.report import plots

    if "job" not in report:
        raise InputError("report: found no `job`, accepted a dict as in report.json")
    folder = Path(folder)
    run = Run.read(report, paths)
    config = folder / "config.yaml"
    quoted = config.read_text(encoding="utf-8") if config.is_file() else None
    drawn = plots.draw(run)
    facts = page(run, drawn, quoted)

    with atomic.storage_errors(folder / "plots"):
        (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in drawn:
        atomic.write_bytes(folder / "plots" / plot.file, plot.png)
    atomic.write_text(folder / "report.md", to_markdown("report", facts))
    atomic.write_text(folder / "report.html", to_html("report", facts))
