"""``gfs report``: the pages and plots of a run folder again, or one page that compares several."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from gfs_dist import report as pages
from gfs_dist.config import commands as schema
from gfs_dist.errors import ConfigError, RunFolderError
from gfs_dist.files import RunFolder
from gfs_dist.files.find import find_runs
from gfs_dist.files.untrusted import refuse_outside_links
from gfs_dist.records import COMPARISON, Report
from gfs_dist.workflows.reporter import Reporter


def run(config: schema.Report, reporter: Reporter) -> Report:
    """Write the pages of one run, or of several; returns what the ``report.json`` holds.

    Raises:
        RunFolderError: no run with a report, one that names files elsewhere or that are no longer
            as it says, or links out of it; runs of different commands.
        ConfigError: ``out`` for a single run; of several, one without its configuration.
        CheckpointError: a report or a path in it cannot be read.
    """
    places = [config.path, *(config.others or [])]
    folders = [folder for place in places for folder in find_runs(place)]
    of_sweep = len(places) == 1 and folders[0].path != Path(config.path)
    if len(places) == 1 and not of_sweep:
        page, report = folders[0].path, _write_one(config, folders[0], reporter)
    else:
        page = Path(config.out or config.path)
        report = _compare(folders, page, _swept(config.path) if of_sweep else [], reporter)
    reporter.run_folder(RunFolder(page))
    html = page / "report.html"
    if config.open and not webbrowser.open(html.resolve().as_uri()):
        reporter.note(f"no browser was found, open {html.resolve()}")
    reporter.next([])
    return report


def _write_one(config: schema.Report, folder: RunFolder, reporter: Reporter) -> Report:
    if config.out is not None:
        raise ConfigError(
            f"out: found {config.out}, accepted with several run folders or that of a sweep; the "
            "pages of one run are in its own folder"
        )
    refuse_outside_links(folder.path)
    folder.refuse_damage("path")
    report = folder.read_report()
    if report.get("job") == COMPARISON:
        raise RunFolderError(
            f"path: found the page on several runs in {folder.path}, accepted are these runs"
        )
    reporter.plan([f"write {folder.path / 'report.md'}, report.html and plots"])
    pages.write(folder.path, report, folder.read_paths(report.get("results") or []))
    return report


def _compare(folders: list[RunFolder], page: Path, keys: list[str], reporter: Reporter) -> Report:
    from gfs_dist.workflows import comparison  # matplotlib takes a second

    found = comparison.read_comparison(folders, page, keys)
    reporter.plan([f"compare {len(folders)} runs in {page / 'report.md'}, report.html and a plot"])
    comparison.show(found, reporter)
    return comparison.write(found, str(page))


def _swept(sweep: str) -> list[str]:
    """The keys that a sweep has swept; of one that has not ended, none are known."""
    return RunFolder(sweep).read_report().get("keys") or []
