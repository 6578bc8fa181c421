"""From the facts of a run (plain dicts) to pages and plots that a person can read."""

from __future__ import annotations

from gfs_dist.report.card import Origin, write_card
from gfs_dist.report.machine import machine, versions
from gfs_dist.report.write import write

__all__ = ["Origin", "machine", "versions", "write", "write_card"]
