"""``gfs reproduce experiment=NAME``: a figure or table of the paper, computed again.

Plan, compute the cells that are missing by the ranks of one runtime, judge what they show, report.
Killed anywhere and resumed, it computes nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import resume_word
from gfs_dist.experiments.figure1 import Figure1
from gfs_dist.experiments.figure4 import Figure4
from gfs_dist.experiments.grid import Experiment, Grid, write_csv
from gfs_dist.experiments.spectra import Figure2, Figure3
from gfs_dist.experiments.table1 import Table1
from gfs_dist.experiments.table2 import Table2
from gfs_dist.experiments.theory import Theory
from gfs_dist.records import CLAIMS, Report, ResultRow
from gfs_dist.runtime import open_runtime
from gfs_dist.workflows.process import check_device, runtime_spec, use_threads
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import RunReport, check_reach, open_folder

EXPERIMENTS: dict[str, Callable[[schema.Reproduce], Experiment]] = {
    "figure1": Figure1,
    "figure2": Figure2,
    "figure3": Figure3,
    "figure4": Figure4,
    "table1": Table1,
    "table2": Table2,
    "theory": Theory,
}


def run(config: schema.Reproduce, reporter: Reporter) -> Report:
    """Compute, and write the run folder; returns what ``report.json`` holds."""
    check_device(config)
    with use_threads(config.threads):
        experiment = EXPERIMENTS[config.experiment](config)
        reporter.plan([f"reproduce {config.experiment}, preset {config.preset}", *experiment.lines])
        with open_folder(config, reporter) as folder:
            reporter.run_folder(folder)
            computed = folder.read_report().get("status") == "finished"
            report = RunReport(folder, "reproduce", reporter, continued=True, timed=not computed)
            report.more = {"experiment": config.experiment, "preset": config.preset}
            with (
                report.recorded(),
                open_runtime(runtime_spec(config, folder), observers=[report.events]) as runtime,
            ):
                check_reach(folder, runtime)
                found = experiment.run(Grid(folder, runtime, reporter))
                for row in found.rows:
                    report.put(cast(ResultRow, row))
                report.tables = {CLAIMS: found.claims, **found.tables}
                report.notes = found.notes
                report.more["data"] = found.data
                write_csv(folder.path / "cells.csv", found.rows)
            _show(report, reporter)
            reporter.next([f"gfs reproduce {resume_word(folder.place, config)}"])
            return report.content


def _show(report: RunReport, reporter: Reporter) -> None:
    for title, rows in report.tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        reporter.table(title, columns, [[row.get(key) for key in columns] for row in rows])
    for note in report.notes:
        reporter.note(note)
