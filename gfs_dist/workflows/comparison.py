"""Several runs as one table and one page: what a sweep ends with, and ``gfs report`` of several."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gfs_dist.config.groups import OPTION_KEY
from gfs_dist.config.stored import read_stored
from gfs_dist.errors import RunFolderError
from gfs_dist.files import RunFolder
from gfs_dist.files.remote import Remote
from gfs_dist.files.untrusted import refuse_outside_links
from gfs_dist.records import Report
from gfs_dist.report.comparison import ComparedRun, Comparison, differing, write_comparison
from gfs_dist.urls import is_url
from gfs_dist.workflows.reporter import Reporter

NOT_COMPARED = ("out", "resume", "track")


def read_comparison(folders: Sequence[RunFolder], page: Path, keys: Sequence[str]) -> Comparison:
    """Run folders beside each other.

    Args:
        folders: of runs with a report.
        page: the folder that the page will be in.
        keys: that tell the runs apart; empty for all in which their configurations differ.

    Raises:
        RunFolderError: runs of different commands, or a folder that is not as its report says.
        ConfigError: a folder without its configuration.
        CheckpointError: a report cannot be read.
    """
    reports = []
    for folder in folders:
        refuse_outside_links(folder.path)
        folder.refuse_damage("path")
        reports.append(folder.read_report())
        if reports[-1].get("job") != reports[0].get("job"):
            raise RunFolderError(
                f"path: found runs of gfs {reports[0].get('job')} ({folders[0].place}) and of gfs "
                f"{reports[-1].get('job')} ({folder.place}), accepted are runs of one command"
            )
    configs = [
        _flat(read_stored(report["job"], folder.place, "path"))
        for folder, report in zip(folders, reports, strict=True)
    ]
    keys = keys or differing(configs, NOT_COMPARED)
    names = [os.path.relpath(folder.path, page) for folder in folders]
    inside = not any(name.startswith("..") for name in names)
    return Comparison(
        [
            ComparedRun(
                name if inside else folder.place,
                name,
                {key: config.get(key, config.get(f"{key}.{OPTION_KEY.get(key)}")) for key in keys},
                report,
            )
            for folder, name, config, report in zip(folders, names, configs, reports, strict=True)
        ]
    )


def show(comparison: Comparison, reporter: Reporter) -> None:
    """The table of all runs."""
    table = comparison.table
    if table:
        title = f"all runs of gfs {comparison.command}"
        reporter.table(title, list(table[0]), [list(row.values()) for row in table])


def write(comparison: Comparison, place: str) -> Report:
    """Write the page and ``report.json`` into a folder, a path or a URL; returns its content.

    Raises:
        StorageError: it cannot be written.
    """
    if not is_url(place):
        write_comparison(place, comparison)
        return RunFolder(place).write_report(comparison.content)
    with tempfile.TemporaryDirectory(prefix="gfs-comparison-") as here:
        content = write(comparison, here)
        remote = Remote(place, "out")
        for file in sorted(path for path in Path(here).rglob("*") if path.is_file()):
            remote.put(file.relative_to(here).as_posix(), file)
    return content


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found
