"""Pages, plots and cards that a person can read, made from the records of a run folder.

Nothing is measured here, and nothing but ``machine`` looks at the machine it runs on.
"""

from __future__ import annotations

from gfs_dist.report.advice import advice_table, advised, verdict
from gfs_dist.report.machine import machine, versions
from gfs_dist.report.text import percent
from gfs_dist.report.write import Origin, write, write_card

__all__ = [
    "Origin",
    "advice_table",
    "advised",
    "machine",
    "percent",
    "verdict",
    "versions",
    "write",
    "write_card",
]
