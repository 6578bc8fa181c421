"""Networks: models, their recorded graphs, storage, and measures of loss, size and speed.

Knows nothing of data, searches or runs.
"""

from gfs_dist.networks.graph.tensors import load_state
from gfs_dist.networks.measure.costs import (
    Latency,
    count_macs,
    count_params,
    latency,
    macs_by_module,
)
from gfs_dist.networks.measure.evaluation import (
    batch_size,
    device_of,
    dtype_of,
    evaluating,
    first_non_finite,
    prefer_channels_last,
)
from gfs_dist.networks.measure.loss_and_accuracy import (
    Classified,
    accuracy,
    classify,
    loss_sum,
    mean_loss,
    outputs,
)
from gfs_dist.networks.measure.quality import text_quality
from gfs_dist.networks.models.builders import Builder, builder_of, make_built
from gfs_dist.networks.models.catalog import CATALOG, make
from gfs_dist.networks.models.custom import make_custom
from gfs_dist.networks.models.two_layer import ACTIVATIONS, TwoLayer, find_activation
from gfs_dist.networks.storage.export import export_onnx, export_program, require_onnx
from gfs_dist.networks.storage.rebuild import load_tensors
from gfs_dist.networks.storage.store import load, save

__all__ = [
    "ACTIVATIONS",
    "CATALOG",
    "Builder",
    "Classified",
    "Latency",
    "TwoLayer",
    "accuracy",
    "batch_size",
    "builder_of",
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
    "macs_by_module",
    "make",
    "make_built",
    "make_custom",
    "mean_loss",
    "outputs",
    "prefer_channels_last",
    "require_onnx",
    "save",
    "text_quality",
]
