"""From the content of ``architecture.json`` and tensors to a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.errors import ConfigError
from gfs_dist.networks.graph.build import build as build_graph
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.models.catalog import CATALOG
from gfs_dist.networks.models.two_layer import DTYPES, TwoLayer
from gfs_dist.networks.storage import removals as replay
from gfs_dist.networks.storage.tensors import assign, named_tensors


def build(architecture: dict[str, Any]) -> TwoLayer:
    """An empty two-layer network (all zeros) of the given description.

    Args:
        architecture: ``{"model": "two_layer", "width", "features", "activation", "dtype"}``.

    Raises:
        ConfigError: unknown model, a fact that is missing, unknown or of the wrong type.
    """
    model = architecture.get("model")
    if not isinstance(model, str) or model not in MODELS:
        raise ConfigError(f"model: found {model!r}, accepted {', '.join(MODELS)}")
    return MODELS[model](architecture)


def load_tensors(
    architecture: dict[str, Any],
    tensors: dict[str, Tensor],
    source: Path | str,
    *,
    factory: str | None = None,
) -> nn.Module:
    """A network of the given description with the given weights, evaluating.

    Shapes are compared before anything is allocated. Two-layer networks get the described dtype,
    others keep that of the weights.

    Args:
        architecture: the content of ``architecture.json``.
        tensors: by name.
        source: where they come from, for messages.
        factory: that of a custom network, see :func:`gfs_dist.networks.load`.

    Raises:
        ConfigError: the description is malformed or unknown.
        CheckpointError: a tensor is missing, too many, of another shape or kind; names ``source``
            and the first that differs.
    """
    network = _empty(architecture, tensors, factory)
    stored = named_tensors(network)
    if not isinstance(network, GraphNetwork):  # others bring what is outside the state dict
        stored = {name: stored[name] for name in network.state_dict() if name in stored}
    described_dtype = network.hidden.weight.dtype if isinstance(network, TwoLayer) else None
    assign(network, stored, tensors, source)
    return network.to(described_dtype).eval()


def _empty(
    architecture: dict[str, Any], tensors: dict[str, Tensor], factory: str | None
) -> nn.Module:
    """The described network, its weights without numbers or with others."""
    model = architecture.get("model")
    if "graph" in architecture:
        return build_graph(architecture["graph"])
    if isinstance(model, str) and model in MODELS:
        with torch.device("meta"):
            return build(architecture)
    if model != "custom" and (not isinstance(model, str) or model not in CATALOG):
        accepted = ", ".join([*MODELS, "custom", *CATALOG])
        raise ConfigError(f"model: found {model!r}, accepted {accepted}")
    network = replay.fresh(architecture, named=factory)
    if model == "custom":
        network = network.cpu()  # one of the catalog has no numbers yet to be moved
    replay.cut(network, architecture.get("removals", {"sizes": {}, "shapes": {}}))
    # What the factory makes besides weights, such as masks, has to be of their dtype.
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    return network.to(dtypes.pop()) if len(dtypes) == 1 else network


def _two_layer(architecture: dict[str, Any]) -> TwoLayer:
    for key in ("width", "features"):
        value = architecture.get(key)
        # bool counts as int in Python; 2**28 keeps hostile numbers from overflowing sizes.
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**28:
            raise ConfigError(f"model.{key}: found {value!r}, accepted a whole number from 1")
    dtype = architecture.get("dtype", "float64")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConfigError(f"model.dtype: found {dtype!r}, accepted {', '.join(DTYPES)}")
    return TwoLayer(
        architecture["width"],
        architecture["features"],
        str(architecture.get("activation", "tanh")),
        DTYPES[dtype],
    )


MODELS: dict[str, Callable[[dict[str, Any]], TwoLayer]] = {"two_layer": _two_layer}
