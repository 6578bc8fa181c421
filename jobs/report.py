"""``gfs report``: the pages and plots of a run folder, written again from its facts."""

from __future__ import annotations

import webbrowser

from gfs_dist import report as pages
from gfs_dist.config import commands as schema
from gfs_dist.files.find import find_report
from gfs_dist.files.untrusted import refuse_outside_links
from gfs_dist.records import Report
from gfs_dist.workflows.reporter import Reporter


def run(config: schema.Report, reporter: Reporter) -> Report:
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
    pages.write(folder.path, report, folder.read_paths(results))
    reporter.run_folder(folder)
    if config.open and not webbrowser.open(page.resolve().as_uri()):
        reporter.note(f"no browser was found, open {page.resolve()}")
    reporter.next([])
    return report
