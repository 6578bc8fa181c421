"""Data: digits, MNIST, CIFAR-10, the user's own images, and planted problems.

Whole or in balanced parts. Knows nothing of networks or runs; a planted problem is tensors and
the neurons that solve it.
"""

from gfs_dist.data.balanced import calibration_rows
from gfs_dist.data.images import READERS as IMAGE_DATASETS
from gfs_dist.data.images import Images, load_images
from gfs_dist.data.load import DATASETS, load
from gfs_dist.data.spec import Dataset, DataSpec, Planted, target

__all__ = [
    "DATASETS",
    "IMAGE_DATASETS",
    "DataSpec",
    "Dataset",
    "Images",
    "Planted",
    "calibration_rows",
    "load",
    "load_images",
    "target",
]
