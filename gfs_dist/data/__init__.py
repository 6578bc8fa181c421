"""Data: digits, MNIST and planted problems, whole or in balanced parts.

Knows nothing of networks or runs; a planted problem is tensors and the neurons that solve it.
"""

from gfs_dist.data.load import DATASETS, load
from gfs_dist.data.spec import Dataset, DataSpec, Planted, target

__all__ = ["DATASETS", "DataSpec", "Dataset", "Planted", "load", "target"]
