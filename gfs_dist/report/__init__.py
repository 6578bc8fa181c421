"""Pages, plots and cards that a person can read, made from the records of a run folder.

Nothing is measured here, and nothing but ``machine`` looks at the machine it runs on.
"""

from __future__ import annotations

from gfs_dist.report.machine import machine, versions
from gfs_dist.report.write import Origin, write, write_card

__all__ = ["Origin", "machine", "versions", "write", "write_card"]
