"""Numbers that modules keep of their sizes, such as ``num_heads``: trials tell which must fall."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn

from gfs_dist.networks.measure.inputs import Inputs
from gfs_dist.pruning.structure.structure import Count, Layer
from gfs_dist.pruning.structure.trial_removal import difference_of

LIKELY = re.compile(r"head|group|intermediate|ffn|inner")
UNLIKELY = re.compile(r"head_dim|head_size|dim_head")
OTHERS = re.compile(r"key_value_groups|kv_groups|n_rep|idx|index|layer")
"""Query heads of a KV group, which stay, and places of a module among others."""

MAX_TRIALS = 24

Option = tuple[str, int]
"""An attribute, and by how much it falls for a candidate."""


def with_counts(network: nn.Module, layers: Sequence[Layer], x: Tensor | Inputs) -> list[Layer]:
    """The layers with the counts that their modules need to run without some candidates.

    Whole numbers that are the number of candidates, or of what belongs to them in one module, may
    be meant. Of layers that are built alike only the first is tried. If it fails with all of them,
    these layers become one, candidate by candidate: a tensor that code makes once for all of them,
    such as T5's empty bias of cross-attention, allows no other.

    Args:
        network: a copy that takes ``x``, with random weights.
        layers: without counts.
    """
    alike: dict[object, list[Layer]] = {}
    for layer in layers:
        alike.setdefault(_build(network, layer), []).append(layer)
    counted = []
    for group in alike.values():
        found = _needed(network, group[0], x)
        if found is None and len(group) > 1:
            group = [_joined(group)]
            found = _needed(network, group[0], x)
        for layer in group:
            places = _options(network, layer)
            counts = [
                Count(m, name, each) for name, each in found or () for m in places[name, each]
            ]
            counted.append(replace(layer, counts=tuple(counts)))
    return counted


def _build(network: nn.Module, layer: Layer) -> object:
    """What layers that are built alike have in common."""
    owner = common_owner(layer)
    parts = [*layer.producers, *layer.consumers]
    places = tuple((part.module.removeprefix(owner), part.channels) for part in parts)
    return type(network.get_submodule(owner)), places, tuple(_options(network, layer))


def _joined(layers: Sequence[Layer]) -> Layer:
    """Layers of as many candidates as one."""
    producers = tuple(part for layer in layers for part in layer.producers)
    consumers = tuple(part for layer in layers for part in layer.consumers)
    return replace(layers[0], producers=producers, consumers=consumers)


def common_owner(layer: Layer) -> str:
    """The innermost module that holds all producers and consumers."""
    paths = [part.module.split(".")[:-1] for part in (*layer.producers, *layer.consumers)]
    steps = itertools.takewhile(lambda names: len({*names}) == 1, zip(*paths, strict=False))
    return ".".join(names[0] for names in steps)


def _options(network: nn.Module, layer: Layer) -> dict[Option, list[str]]:
    """Numbers of the owner, and of modules between it and the layers, that may count candidates.

    Those of a configuration, which others share, only where they are named after heads.
    """
    parts = [*layer.producers, *layer.consumers]
    sizes = {len(part.channels[0]) for part in parts}
    sizes |= {size // 3 for size in sizes} | {1}
    sizes |= {large // small for large in sizes for small in sizes if small}
    found: dict[Option, list[str]] = {}
    for name in _between(common_owner(layer), [part.module for part in parts]):
        module = network.get_submodule(name)
        config = getattr(getattr(module, "config", None), "__dict__", {})
        numbers = vars(module) | {f"config.{k}": config[k] for k in config if LIKELY.search(k)}
        for attribute, value in numbers.items():
            each, rest = divmod(value, layer.num_candidates) if type(value) is int else (0, 1)
            if each and each in sizes and not rest and not OTHERS.search(attribute):
                found.setdefault((attribute, each), []).append(name)
    return found


def _between(owner: str, layers: Sequence[str]) -> list[str]:
    """The owner, and all modules that lie between it and the layers."""
    names = {owner: None}
    for layer in layers:
        steps = layer.removeprefix(f"{owner}.").split(".")[:-1]
        for end in range(1, len(steps) + 1):
            names[".".join([owner, *steps[:end]]).lstrip(".")] = None
    return list(names)


def _needed(network: nn.Module, layer: Layer, x: Tensor | Inputs) -> tuple[Option, ...] | None:
    """The first choice with which the smaller network equals the masked one; None if none does."""
    places = _options(network, layer)
    for choice in itertools.islice(_choices([*places]), MAX_TRIALS):
        if not difference_of(network, [replace(layer, counts=_counts(places, choice))], x):
            return choice
    return None


def _counts(places: dict[Option, list[str]], choice: Sequence[Option]) -> tuple[Count, ...]:
    return tuple(Count(m, name, each) for name, each in choice for m in places[name, each])


def _choices(options: Sequence[Option]) -> Iterator[tuple[Option, ...]]:
    """All numbers that are named like counts, none, then these with one or two others."""
    likely = [o for o in options if LIKELY.search(o[0]) and not UNLIKELY.search(o[0])]
    likely = [option for option in likely if "." not in option[0]]
    others = [option for option in options if option not in likely]
    yield tuple(likely)
    if likely:
        yield ()
    for size in (1, 2):
        for more in itertools.combinations(others, size):
            yield (*likely, *more)
    for left_out in likely if len(likely) > 1 else ():
        yield tuple(option for option in likely if option != left_out)
