"""A network made again by the code that first made it, then cut to size.

The record of removals says what the fresh instance does not: shapes of the tensors that were cut,
and the numbers of channels, features and groups that layers keep beside them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.errors import ConfigError
from gfs_dist.networks.graph.json_values import UnstorableError, checked_dict
from gfs_dist.networks.models.catalog import CATALOG, make
from gfs_dist.networks.models.custom import make_custom
from gfs_dist.networks.storage.tensors import empty_tensor, named_tensors

SIZES = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features"),
    *("num_channels", "num_groups", "normalized_shape", "num_parameters"),
    *("num_embeddings", "embedding_dim"),
)


def fresh(origin: dict[str, Any], *, named: str | None = None) -> nn.Module:
    """The network as it was before anything was removed; one of the catalog on the meta device.

    Args:
        origin: ``{"model": NAME, "num_classes", "in_channels"}`` with a name of the catalog, or
            ``{"model": "custom", "factory", "kwargs"}``.
        named: the factory that the caller names; no other is imported.

    Raises:
        ConfigError: neither of these, or a factory that cannot be called or was not named.
    """
    name = origin.get("model")
    if name == "custom":
        return _custom(origin.get("factory"), origin.get("kwargs", {}), named)
    if not isinstance(name, str) or name not in CATALOG:
        raise ConfigError(f"model: found {name!r}, accepted custom, {', '.join(CATALOG)}")
    counts: tuple[Any, Any] = (origin.get("num_classes"), origin.get("in_channels", 3))
    if not all(type(count) is int and 1 <= count < 2**28 for count in counts):  # True is no count
        found = f"{str(counts)[:60]} classes and channels"
        raise ConfigError(f"model={name}: found {found}, accepted whole numbers from 1")
    with torch.device("meta"):
        return make(name, *counts)


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
            sizes[name] = {key: _plain(size) for key, size in changed.items()}
    before_tensors = named_tensors(before)
    shapes = {
        name: list(tensor.shape)
        for name, tensor in named_tensors(network).items()
        if name not in before_tensors or tensor.shape != before_tensors[name].shape
    }
    return {"shapes": shapes, "sizes": sizes}


def cut(network: nn.Module, record: Any) -> None:
    """Give layers the recorded sizes; tensors that change shape are left without numbers.

    Args:
        network: modified.
        record: what :func:`removals` gives; anything else is refused.

    Raises:
        ConfigError: names the layer or tensor that the network does not have.
    """
    record = checked_dict(record, "removals")
    for name, sizes in checked_dict(record.get("sizes"), "removals.sizes").items():
        layer = _layer(network, name)
        for key, size in checked_dict(sizes, f"removals: layer {name!r}").items():
            if key not in SIZES or not hasattr(layer, key) or not isinstance(size, int | list):
                raise ConfigError(f"removals: layer {name!r} has no {key!r} to be {str(size)[:60]}")
            setattr(layer, key, tuple(size) if isinstance(size, list) else size)
    placed: dict[Tensor, Tensor] = {}
    for name, shape in checked_dict(record.get("shapes"), "removals.shapes").items():
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


def _custom(factory: Any, kwargs: Any, named: str | None) -> nn.Module:
    if not isinstance(factory, str) or not isinstance(kwargs, dict):
        found = f"{str(factory)[:60]!r} with {str(kwargs)[:60]}"
        raise ConfigError(f"model.factory: found {found}, accepted package.module:function")
    if factory != named:  # the file may be anybody's, and importing a module runs it
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


def _layer(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise ConfigError(f"removals: the network has no layer {name!r}") from error


def _plain(size: Any) -> Any:
    return list(size) if isinstance(size, tuple) else size
