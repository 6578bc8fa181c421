"""``gfs benchmark suite=NAME``: measure what the suite measures, and report it."""

from __future__ import annotations

from typing import Any

from gfs_dist.bench.appendix_d import AppendixDSuite
from gfs_dist.bench.guard import GuardSuite
from gfs_dist.bench.scaling_suite import ScalingSuite
from gfs_dist.bench.select_suite import SelectSuite
from gfs_dist.bench.suite import SuiteReport
from gfs_dist.config import commands as schema
from gfs_dist.workflows.process import check_device
from gfs_dist.workflows.reporter import Reporter

SUITES: dict[str, type[AppendixDSuite | GuardSuite | ScalingSuite | SelectSuite]] = {
    "select": SelectSuite,
    "appendix_d": AppendixDSuite,
    "scaling": ScalingSuite,
    "guard": GuardSuite,
}


def run(config: schema.Benchmark, reporter: Reporter) -> dict[str, Any]:
    """Measure, and write the run folder; returns what ``report.json`` holds.

    Raises:
        PicksDifferError: two searches of one problem picked differently.
        WorseError: the guard found a ratio that got worse.
        ConfigError: ``device=cuda`` without a GPU.
    """
    check_device(config)
    suite = SUITES[config.suite](config)
    plan = suite.plan()
    reporter.plan(plan)
    with SuiteReport.opened(config, reporter, plan) as report:
        suite.measure(report)
    return report.content
