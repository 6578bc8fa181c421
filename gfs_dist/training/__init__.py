"""Training of two-layer networks, resumable at every checkpoint."""

from gfs_dist.training.spec import TrainSpec, TrainState, default_lr
from gfs_dist.training.train import train

__all__ = ["TrainSpec", "TrainState", "default_lr", "train"]
