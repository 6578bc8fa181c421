"""Networks: what they compute, how they are stored, what is measured of them.

Knows nothing of data, searches or runs.
"""

from gfs_dist.networks.measure.batching import batch_size, prefer_channels_last
from gfs_dist.networks.measure.classify import Classified, classify
from gfs_dist.networks.measure.modes import device_of, dtype_of, evaluating
from gfs_dist.networks.measure.non_finite import first_non_finite
from gfs_dist.networks.measure.sizes import count_macs, count_params, macs_by_module
from gfs_dist.networks.measure.two_layer import (
    Latency,
    accuracy,
    latency,
    loss_sum,
    macs,
    mean_loss,
    outputs,
    params,
)
from gfs_dist.networks.models.catalog import CATALOG, make
from gfs_dist.networks.models.custom import make_custom
from gfs_dist.networks.models.two_layer import ACTIVATIONS, Activation, TwoLayer, find_activation
from gfs_dist.networks.storage.export import export_onnx, export_program, require_onnx
from gfs_dist.networks.storage.rebuild import MODELS, build, load_tensors
from gfs_dist.networks.storage.state_dict import load_state
from gfs_dist.networks.storage.store import load, save

__all__ = [
    "ACTIVATIONS",
    "CATALOG",
    "MODELS",
    "Activation",
    "Classified",
    "Latency",
    "TwoLayer",
    "accuracy",
    "batch_size",
    "build",
    "classify",
    "count_macs",
    "count_params",
    "device_of",
    "dtype_of",
    "evaluating",
    "export_onnx",
    "export_program",
    "find_activation",
    "first_non_finite",
    "latency",
    "load",
    "load_state",
    "load_tensors",
    "loss_sum",
    "macs",
    "macs_by_module",
    "make",
    "make_custom",
    "mean_loss",
    "outputs",
    "params",
    "prefer_channels_last",
    "require_onnx",
    "save",
]
