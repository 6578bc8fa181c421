"""``gfs prune``: from checkpoints of a network to smaller networks and a report.

Plan, train where there is nothing to prune yet, search each checkpoint with the ranks of one
runtime, cut, repair, measure, report. What is finished is in the run folder at once; a run that was
killed anywhere goes on from there.
"""

from __future__ import annotations

from gfs_dist.config import commands as schema
from gfs_dist.records import Report
from gfs_dist.runtime import open_runtime
from gfs_dist.workflows.pipeline import PruneRun, prune_all, show_results
from gfs_dist.workflows.process import runtime_spec, use_threads
from gfs_dist.workflows.prune_deep import DeepFamily
from gfs_dist.workflows.prune_two_layer import TwoLayerFamily
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import RunReport, open_folder
from gfs_dist.workflows.total_time import TotalTime
from gfs_dist.workflows.tracking import tracked


@tracked
def run(config: schema.Prune, reporter: Reporter) -> Report:
    """Prune, and write the run folder; returns what ``report.json`` holds."""
    with use_threads(config.threads):
        two_layer = isinstance(config.model, schema.TwoLayer)
        family = TwoLayerFamily(config) if two_layer else DeepFamily(config)
        reporter.plan(family.lines)
        with open_folder(config, reporter) as folder:
            reporter.run_folder(folder)
            report = RunReport(folder, "prune", reporter, continued=family.keeps_results)
            timed = TotalTime(reporter, family.phases(report))
            with (
                report.recorded(),
                open_runtime(runtime_spec(config, folder), observers=[report.events]) as runtime,
            ):
                prune_all(family, PruneRun(runtime, report, timed))
            show_results(family, report, reporter)
            return report.content
