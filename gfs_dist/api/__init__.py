"""Pruning from Python: ``gfs_dist.select`` and ``gfs_dist.prune``.

Arguments are checked here and passed on as problems and specifications. Knows no configuration.
"""

from gfs_dist.api.prune import Pruned, prune
from gfs_dist.api.select import ArrayProblem, MomentsProblem, as_tensor, select

__all__ = ["ArrayProblem", "MomentsProblem", "Pruned", "as_tensor", "prune", "select"]
