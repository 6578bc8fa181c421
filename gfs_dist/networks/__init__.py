"""Networks: what they compute, how they are stored, what is measured of them.

Knows nothing of data, searches or runs.
"""

from gfs_dist.networks.measures import (
    Latency,
    accuracy,
    latency,
    loss_sum,
    macs,
    mean_loss,
    outputs,
    params,
)
from gfs_dist.networks.store import MODELS, build, load, load_tensors, save
from gfs_dist.networks.two_layer import ACTIVATIONS, Activation, TwoLayer, find_activation

__all__ = [
    "ACTIVATIONS",
    "MODELS",
    "Activation",
    "Latency",
    "TwoLayer",
    "accuracy",
    "build",
    "find_activation",
    "latency",
    "load",
    "load_tensors",
    "loss_sum",
    "macs",
    "mean_loss",
    "outputs",
    "params",
    "save",
]
