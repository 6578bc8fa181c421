"""suite=guard"""

from __future__ import annotations

from typing import Any

from gfs_dist.jobs import config as schema
from gfs_dist.jobs.reporter import Reporter


def run(config: schema.Benchmark, reporter: Reporter) -> dict[str, Any]:
    raise NotImplementedError
