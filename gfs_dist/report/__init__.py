"""From the facts of a run (plain dicts) to pages and plots that a person can read."""

from __future__ import annotations

from gfs_dist.report.machine import machine, versions
from gfs_dist.report.write import write

__all__ = ["machine", "versions", "write"]
