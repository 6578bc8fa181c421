"""``gfs advise RUN_DIR``: whether a run of ``gfs pretrain`` trained enough to be pruned.

Its checkpoints so far are pruned to one size, and a rule looks at the series of what is left. The
run may be at work: nothing is written into its folder, and no lock of it is taken.
"""

from __future__ import annotations

from gfs_dist import report as pages
from gfs_dist.command_words import typed_place
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import resume_word
from gfs_dist.files import RunFolder
from gfs_dist.records import Report
from gfs_dist.runtime import open_runtime
from gfs_dist.workflows.advise import Adviser, iteration_seconds
from gfs_dist.workflows.pipeline import PruneRun, prune_all
from gfs_dist.workflows.process import runtime_spec, use_threads
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import RunReport, open_folder
from gfs_dist.workflows.total_time import TotalTime
from gfs_dist.workflows.tracking import tracked


@tracked
def run(config: schema.Advise, reporter: Reporter) -> Report:
    """Prune, judge, and write the run folder; returns what ``report.json`` holds.

    Checkpoints that an earlier run in this folder has pruned are not pruned again.

    Raises:
        ConfigError: ``path`` is no run folder of ``gfs pretrain``.
        CheckpointError: it has no checkpoint yet.
        RunFolderError: checkpoints have changed since they were pruned in this folder.
    """
    with use_threads(config.threads):
        adviser = Adviser(config)
        family = adviser.family()
        reporter.plan(family.lines)
        with open_folder(config, reporter) as folder:
            reporter.run_folder(folder)
            report = RunReport(folder, "advise", reporter, continued=True)
            timed = TotalTime(reporter, family.phases(report))
            spec = runtime_spec(adviser.pruning, folder)
            with report.recorded():
                with open_runtime(spec, observers=[report.events]) as runtime:
                    prune_all(family, PruneRun(runtime, report, timed))
                advice = adviser.advice(report, iteration_seconds(RunFolder(config.path)))
                report.more["advice"] = advice
            table = pages.advice_table(advice)
            rows = [list(row.values()) for row in table]
            reporter.table(pages.verdict(advice), list(table[0]), rows)
            for line in pages.advised(advice):
                reporter.note(line)
            again = resume_word(folder.path, config)
            reporter.next(
                [f"gfs advise {again}", f"gfs report {typed_place('path', str(folder.path))}"]
            )
            return report.content
