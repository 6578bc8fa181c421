"""Training of two-layer and deep networks, resumable at every checkpoint bit for bit.

The caller stores checkpoints and reports progress. Knows no configuration or run folders.
"""

from gfs_dist.training.deep import train_deep
from gfs_dist.training.spec import DeepSpec, TrainSpec, TrainState, loss_rise_warning
from gfs_dist.training.train import default_lr, tangent_kernel, train

__all__ = [
    "DeepSpec",
    "TrainSpec",
    "TrainState",
    "default_lr",
    "loss_rise_warning",
    "tangent_kernel",
    "train",
    "train_deep",
]
