"""What was removed from a network: sizes, which turn the dense architecture into the smaller one.

Recorded are the shapes of the tensors that were cut, and the whole numbers that modules keep beside
them: channels, features and groups of layers, heads of attention. Which channels stayed does not
matter where the tensors are stored too.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from gfs_dist.errors import ConfigError
from gfs_dist.networks.graph.json_values import UnstorableError, checked
from gfs_dist.networks.graph.tensors import empty_tensor, named_tensors

SIZES = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features"),
    *("num_channels", "num_groups", "normalized_shape", "num_parameters"),
    *("num_embeddings", "embedding_dim"),
)
"""Of layers of torch.nn."""

CONFIG = "config."
"""In front of a number that a module reads from a configuration."""

MAX_SIZE = 2**28
"""Of a layer; keeps hostile numbers from overflowing sizes of tensors."""


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
        was = _numbers(old[name])
        changed = {key: size for key, size in _numbers(module).items() if size != was.get(key, 0)}
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
            if key not in _numbers(layer) or not _is_like(size, _numbers(layer)[key]):
                raise ConfigError(f"removals: layer {name!r} has no {key!r} to be {str(size)[:60]}")
            _put(layer, key, size)
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


def _numbers(module: nn.Module) -> dict[str, Any]:
    """Sizes of a layer, and whole numbers among its attributes and in its configuration."""
    found = {key: getattr(module, key, None) for key in SIZES}
    config = getattr(vars(module).get("config"), "__dict__", {})
    numbers = {**vars(module), **{CONFIG + key: value for key, value in config.items()}}
    sizes = {key: size for key, size in found.items() if isinstance(size, int | tuple)}
    return sizes | {key: value for key, value in numbers.items() if type(value) is int}


def _is_like(size: Any, old: Any) -> bool:
    if isinstance(size, list):
        return isinstance(old, tuple) and all(_is_like(part, 0) for part in size)
    return type(size) is int and type(old) is int and 0 <= size < MAX_SIZE


def _put(module: Any, key: str, size: Any) -> None:
    """Change one of :func:`_numbers`; the configuration, which others share, becomes a copy."""
    if key.startswith(CONFIG):
        module.config = copy.copy(module.config)
        vars(module.config)[key.removeprefix(CONFIG)] = size
    else:
        setattr(module, key, tuple(size) if isinstance(size, list) else size)


def _layer(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise ConfigError(f"removals: the network has no layer {name!r}") from error
