"""``gfs report``: the pages and plots of a run folder, written again from its facts."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

from gfs_dist import report as pages
from gfs_dist.files import RunFolder
from gfs_dist.files.checkpoint import read_json
from gfs_dist.files.no_follow import refuse_outside_links
from gfs_dist.jobs import config as schema
from gfs_dist.jobs.finding import find_report
from gfs_dist.jobs.reporter import Reporter


def run(config: schema.Report, reporter: Reporter) -> dict[str, Any]:
    """Write the pages of ``config.path``; returns what its ``report.json`` holds.

    Raises:
        RunFolderError: it holds no report, one that names files elsewhere or that are no longer
            as it says, or links out of it.
        CheckpointError: its report or a path in it cannot be read.
    """
    folder = find_report(config.path)
    refuse_outside_links(folder.path)
    folder.refuse_damage("path")
    report = folder.read_report()
    page = folder.path / "report.html"
    reporter.plan([f"write {folder.path / 'report.md'}, {page.name} and plots"])
    results = report.get("results") or []
    pages.write(folder.path, report, read_paths(folder, results))
    reporter.run_folder(folder)
    if config.open and not _show(page):
        reporter.note(f"no browser was found, open {page.resolve()}")
    reporter.next([])
    return report


def read_paths(folder: RunFolder, results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The paths of results by their names; of a deep one, a path by the name of each layer.

    Raises:
        RunFolderError: a result names a file elsewhere.
        CheckpointError: a path cannot be read.
    """
    return {row["name"]: _read(folder.inside(row["path"])) for row in results if row.get("path")}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        return read_json(path)
    files = sorted(file for file in path.glob("*.json") if not file.stem.endswith(".partial"))
    stored = [(file.stem, read_json(file)) for file in files]
    return {content.get("layer", stem): content for stem, content in stored}


def _show(page: Path) -> bool:
    return webbrowser.open(page.resolve().as_uri())
