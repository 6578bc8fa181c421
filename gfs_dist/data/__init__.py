"""Datasets, whole or in balanced parts: digits, MNIST, CIFAR-10, the user's own, planted problems.

A reader for each finds the bytes; ``load`` and ``load_images`` do the rest. Knows no networks or
runs; a planted problem is tensors and the neurons that solve it.
"""

from gfs_dist.data.balanced import calibration_rows
from gfs_dist.data.load import Images, load, load_images
from gfs_dist.data.spec import Dataset, DataSpec, PlantedNetwork, target

__all__ = [
    "DataSpec",
    "Dataset",
    "Images",
    "PlantedNetwork",
    "calibration_rows",
    "load",
    "load_images",
    "target",
]
