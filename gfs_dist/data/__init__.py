"""Datasets, whole or in balanced parts: images, text, the user's own, planted problems.

A reader for each finds the bytes; ``load`` and ``load_samples`` do the rest. Knows no networks or
runs; a planted problem is tensors and the neurons that solve it.
"""

from gfs_dist.data.balanced import calibration_rows
from gfs_dist.data.load import DeepData, Images, load, load_images, load_samples
from gfs_dist.data.spec import Dataset, DataSpec, PlantedNetwork, target
from gfs_dist.data.text import Texts

__all__ = [
    "DataSpec",
    "Dataset",
    "DeepData",
    "Images",
    "PlantedNetwork",
    "Texts",
    "calibration_rows",
    "load",
    "load_images",
    "load_samples",
    "target",
]
