"""From the content of ``architecture.json`` and tensors to a network.

A deep one is built from its recorded graph, or made again by the code that first made it and cut
to size: recorded are the shapes of the tensors that were cut, and the numbers of channels, features
and groups that layers keep beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.errors import ConfigError
from gfs_dist.networks.graph.build import build
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.json_values import UnstorableError, checked
from gfs_dist.networks.graph.tensors import assign, empty_tensor, named_tensors
from gfs_dist.networks.models.catalog import CATALOG, make
from gfs_dist.networks.models.custom import make_custom
from gfs_dist.networks.models.two_layer import DTYPES, TwoLayer

SIZES = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features"),
    *("num_channels", "num_groups", "normalized_shape", "num_parameters"),
    *("num_embeddings", "embedding_dim"),
)
MAX_SIZE = 2**28
"""Of a layer; keeps hostile numbers from overflowing sizes of tensors."""


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
        stored = {name: stored[name] for name in network.state_dict() if name in stored}
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


def removals(before: nn.Module, network: nn.Module) -> dict[str, Any]:
    """The record that turns ``before`` into a network of the shapes of ``network``.

    Returns:
        ``{"shapes": {tensor: shape}, "sizes": {layer: {attribute: number}}}``, differences only.

    Raises:
        UnstorableError: they differ in more than sizes.
    """
    old, new = dict(before.named_modules()), dict(network.named_modules())
    for name in sorted(old.keys() ^ new.keys()):
        where = "the pruned network" if name in old else "what its factory makes"
        raise UnstorableError(f"layer {name!r} is missing in {where}")
    sizes = {}
    for name, module in new.items():
        found = {key: getattr(module, key) for key in SIZES if hasattr(module, key)}
        changed = {key: size for key, size in found.items() if size != getattr(old[name], key, 0)}
        if changed:
            sizes[name] = {
                key: list(size) if isinstance(size, tuple) else size
                for key, size in changed.items()
            }
    before_tensors = named_tensors(before)
    shapes = {
        name: list(tensor.shape)
        for name, tensor in named_tensors(network).items()
        if name not in before_tensors or tensor.shape != before_tensors[name].shape
    }
    return {"shapes": shapes, "sizes": sizes}


def remove(network: nn.Module, record: Any) -> None:
    """Give layers the recorded sizes; tensors that change shape are left on the meta device.

    Args:
        network: modified.
        record: of :func:`removals`; anything else is refused.

    Raises:
        ConfigError: names the layer or tensor that the network does not have.
    """
    record = checked(dict, record, "removals")
    for name, sizes in checked(dict, record.get("sizes"), "removals.sizes").items():
        layer = _layer(network, name)
        for key, size in checked(dict, sizes, f"removals: layer {name!r}").items():
            if key not in SIZES or not hasattr(layer, key) or not isinstance(size, int | list):
                raise ConfigError(f"removals: layer {name!r} has no {key!r} to be {str(size)[:60]}")
            setattr(layer, key, tuple(size) if isinstance(size, list) else size)
    placed: dict[Tensor, Tensor] = {}
    for name, shape in checked(dict, record.get("shapes"), "removals.shapes").items():
        where = f"removals: tensor {name!r}"
        owner, _, own_name = name.rpartition(".")
        layer = _layer(network, owner)
        old = getattr(layer, own_name, None)
        if old is None and own_name == "bias":  # centred moments give layers a bias
            old = nn.Parameter(empty_tensor([0], where))
        if not isinstance(old, Tensor):
            raise ConfigError(f"{where}: the network has none")
        new = empty_tensor(shape, where)
        placed.setdefault(old, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
        setattr(layer, own_name, placed[old])


def _layer(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise ConfigError(f"removals: the network has no layer {name!r}") from error
