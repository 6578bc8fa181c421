"""From the content of ``architecture.json`` and tensors to a network.

A deep one is built from its recorded graph, or made again by the code that first made it (a
function, or a class of a package that is known) and cut to size, see
:mod:`gfs_dist.networks.storage.removals`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.errors import ConfigError
from gfs_dist.networks.graph.build import build
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.tensors import assign, named_tensors
from gfs_dist.networks.models.builders import Builder, build_empty
from gfs_dist.networks.models.catalog import CATALOG, make
from gfs_dist.networks.models.custom import make_custom
from gfs_dist.networks.models.two_layer import DTYPES, TwoLayer
from gfs_dist.networks.storage.removals import MAX_SIZE, remove

SLACK = 4
"""Parameters that may be made for each that is kept: constructors may replace some."""


def load_tensors(
    architecture: dict[str, Any],
    tensors: dict[str, Tensor],
    source: Path | str,
    *,
    factory: str | None = None,
) -> nn.Module:
    """A network of the given architecture with the given tensors, evaluating.

    Shapes are compared before anything is allocated. Two-layer networks get the dtype of their
    architecture, others keep that of the tensors.

    Args:
        architecture: the content of ``architecture.json``.
        source: where they come from, for messages.
        factory: that of a custom network, see :func:`gfs_dist.networks.load`.

    Raises:
        ConfigError: the architecture is malformed or unknown.
        CheckpointError: a tensor is missing, too many, of another shape or kind; names ``source``
            and the first that differs.
    """
    network = _empty(architecture, tensors, factory)
    stored = named_tensors(network)
    if not isinstance(network, GraphNetwork):  # constructors also make tensors outside it
        held = {*network.state_dict()}
        if "builder" in architecture:
            held |= tensors.keys() & dict(network.named_buffers()).keys()
        stored = {name: tensor for name, tensor in stored.items() if name in held}
    dtype = network.hidden.weight.dtype if isinstance(network, TwoLayer) else None
    assign(network, stored, tensors, source)
    return network.to(dtype).eval()


def _empty(
    architecture: dict[str, Any], tensors: dict[str, Tensor], factory: str | None
) -> nn.Module:
    """The network of an architecture; its weights are on the meta device, or still to replace."""
    model = architecture.get("model")
    if "graph" in architecture:
        return build(architecture["graph"])
    if "builder" in architecture:
        builder = Builder.parse(architecture["builder"])
        network = build_empty(builder, most=SLACK * (len(tensors) + SLACK))
        remove(network, architecture.get("removals"))
        return network
    if model == "two_layer":
        return _empty_two_layer(architecture)
    if model != "custom" and (not isinstance(model, str) or model not in CATALOG):
        accepted = ", ".join(["two_layer", "custom", *CATALOG])
        raise ConfigError(f"model: found {model!r}, accepted {accepted}")
    network = make_unpruned(architecture, allowed_factory=factory)
    if model == "custom":
        network = network.cpu()  # one of the catalog is on the meta device
    remove(network, architecture.get("removals", {"sizes": {}, "shapes": {}}))
    # Other tensors of the factory, such as masks, have to be of the dtype of the weights.
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    return network.to(dtypes.pop()) if len(dtypes) == 1 else network


def _empty_two_layer(architecture: dict[str, Any]) -> TwoLayer:
    sizes = [architecture.get(key) for key in ("width", "features")]
    for key, value in zip(("width", "features"), sizes, strict=True):
        if not _is_size(value):
            raise ConfigError(f"model.{key}: found {value!r}, accepted a whole number from 1")
    dtype = architecture.get("dtype", "float64")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConfigError(f"model.dtype: found {dtype!r}, accepted {', '.join(DTYPES)}")
    activation = str(architecture.get("activation", "tanh"))
    with torch.device("meta"):
        return TwoLayer(architecture["width"], architecture["features"], activation, DTYPES[dtype])


def make_unpruned(origin: dict[str, Any], *, allowed_factory: str | None = None) -> nn.Module:
    """The network as it was before anything was removed; one of the catalog on the meta device.

    Args:
        origin: ``{"model": NAME, "num_classes", "in_channels", "width"}`` with a name of the
            catalog (its ``width`` is 1 where it is not said), or
            ``{"model": "custom", "factory", "kwargs"}``.
        allowed_factory: the factory that the caller names; no other is imported.

    Raises:
        ConfigError: neither of these, or a factory that cannot be called or was not named.
    """
    name = origin.get("model")
    if name == "custom":
        return _make_custom(origin.get("factory"), origin.get("kwargs", {}), allowed_factory)
    if not isinstance(name, str) or name not in CATALOG:
        raise ConfigError(f"model: found {name!r}, accepted custom, {', '.join(CATALOG)}")
    counts: tuple[Any, Any] = (origin.get("num_classes"), origin.get("in_channels", 3))
    if not all(map(_is_size, counts)):
        found = f"{str(counts)[:60]} classes and channels"
        raise ConfigError(f"model={name}: found {found}, accepted whole numbers from 1")
    with torch.device("meta"):
        return make(name, *counts, width=origin.get("width", 1.0))


def _make_custom(factory: Any, kwargs: Any, allowed: str | None) -> nn.Module:
    if not isinstance(factory, str) or not isinstance(kwargs, dict):
        found = f"{str(factory)[:60]!r} with {str(kwargs)[:60]}"
        raise ConfigError(f"model.factory: found {found}, accepted package.module:function")
    if factory != allowed:  # the file may come from anyone, and importing a module runs it
        raise ConfigError(
            f"model.factory: its file names {factory!r}, which is imported only if you name it "
            f"too: factory={factory!r}"
        )
    try:
        return make_custom(factory, kwargs)
    except ConfigError as error:
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        cure = f"put the folder of {factory.partition('.')[0].partition(':')[0]} on PYTHONPATH"
        raise ConfigError(f"{error}; this network is made again by {factory}: {cure}") from error


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value < MAX_SIZE  # True is no count
