"""``gfs benchmark suite=NAME``: hands the work to a suite, and says how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gfs_dist.bench import appendix_d as suite_appendix_d
from gfs_dist.bench import guard as suite_guard
from gfs_dist.bench import scaling_suite as suite_scaling
from gfs_dist.bench import select_suite as suite_select
from gfs_dist.config import commands as schema
from gfs_dist.workflows.process import check_device
from gfs_dist.workflows.reporter import Reporter

SUITES: dict[str, Callable[[schema.Benchmark, Reporter], dict[str, Any]]] = {
    "select": suite_select.run,
    "appendix_d": suite_appendix_d.run,
    "scaling": suite_scaling.run,
    "guard": suite_guard.run,
}


def run(config: schema.Benchmark, reporter: Reporter) -> dict[str, Any]:
    """Measure, and write the run folder; returns what ``report.json`` holds.

    Raises:
        PicksDifferError: two searches of one problem picked differently.
        WorseError: the guard found a ratio that got worse.
        ConfigError: ``device=cuda`` without a GPU.
    """
    check_device(config)
    return SUITES[config.suite](config, reporter)
