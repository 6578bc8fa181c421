"""``gfs pretrain``: train a network and keep checkpoints on the way."""

from __future__ import annotations

import time
from typing import cast

from gfs_dist import report as pages
from gfs_dist.config import commands as schema
from gfs_dist.records import Measured, Report
from gfs_dist.workflows.advise import stopping
from gfs_dist.workflows.checkpoints import losses_of, show_checkpoints
from gfs_dist.workflows.process import check_device, use_threads
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import RunReport, open_folder
from gfs_dist.workflows.tracking import tracked
from gfs_dist.workflows.train_deep import DeepTraining
from gfs_dist.workflows.train_two_layer import TwoLayerTraining


@tracked
def run(config: schema.Pretrain, reporter: Reporter) -> Report:
    """Train as ``stop`` says, and write the run folder; returns what ``report.json`` holds."""
    training: TwoLayerTraining | DeepTraining
    if isinstance(config.model, schema.TwoLayer):
        training = TwoLayerTraining(config)
    else:
        check_device(config)
        training = DeepTraining.of_fresh(config)
    reporter.plan(training.lines)
    with use_threads(config.threads), open_folder(config, reporter) as folder:
        reporter.run_folder(folder)
        began = time.perf_counter()
        report = RunReport(folder, "pretrain", reporter, timed=training.in_ranks)
        with report.recorded(), stopping(config, folder, reporter) as enough:
            training.train(report, reporter, enough)
            if enough is not None:
                report.more["advice"] = enough.advice
            if not training.in_ranks:
                report.timing["train_s"] = time.perf_counter() - began
            rows = training.rows(folder)
            for row in rows:
                report.put(row)
            last = rows[-1].items()
            known = {key: value for key, value in last if key in Measured.__annotations__}
            report.dense = cast(Measured, known)
            report.losses = losses_of(rows)
            if not training.in_ranks:
                report.events.first_rank("finished", max(report.losses))
        show_checkpoints("trained", rows, reporter)
        for line in pages.advised(report.content["advice"]) if config.stop == "enough" else ():
            reporter.note(line)
        reporter.next(training.commands(folder, rows))
        return report.content
