"""Candidates switched off (mask) or taken out for good (shrink)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch_pruning import ops
from torch_pruning.pruner import function

from gfs_dist.errors import InputError
from gfs_dist.pruning.structure import Layer, Slice, Structure


def mask(model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy in which nobody reads the candidates that are not kept.

    Their input weights in all consumers are zero; shapes, and all other weights, stay.

    Args:
        model: the network, or one of the same shapes with other weights or added biases.
        structure: what :func:`find_structure` found in it.
        kept: layer to sorted candidate numbers; layers that are absent stay whole.

    Raises:
        InputError: ``kept`` names an unknown layer, or its numbers are none, unsorted or too large.
    """
    masked = copy.deepcopy(model)
    for layer, removed in _removed(structure, kept):
        for consumer in layer.consumers:
            silence(masked.get_submodule(consumer.module), consumer.of(removed))
    return masked


def shrink(model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A physically smaller copy, equal to :func:`mask` of the same arguments on every input.

    torch-pruning's functions take the channels out of each module. Training mode and
    ``requires_grad`` are those of ``model``. Arguments and errors: see :func:`mask`.
    """
    smaller = copy.deepcopy(model)
    outputs: dict[str, set[int]] = {}
    inputs: dict[str, set[int]] = {}
    for layer, removed in _removed(structure, kept):
        _collect(outputs, (*layer.producers, *layer.carriers), removed)
        _collect(inputs, layer.consumers, removed)
    for name, channels in outputs.items():
        module = smaller.get_submodule(name)
        _cut(module, channels, function.PrunerBox[ops.module2type(module)].prune_out_channels)
    for name, channels in inputs.items():
        module = smaller.get_submodule(name)
        _cut(module, channels, function.PrunerBox[ops.module2type(module)].prune_in_channels)
    return smaller


@torch.no_grad()
def silence(consumer: nn.Module, channels: list[int]) -> None:
    """Zero the weights with which a convolution or linear layer reads these input channels."""
    weight = consumer.get_parameter("weight")
    if getattr(consumer, "transposed", False):
        weight[channels] = 0
    else:
        weight[:, channels] = 0


def _removed(
    structure: Structure, kept: Mapping[str, Sequence[int]]
) -> list[tuple[Layer, list[int]]]:
    layers = {layer.name: layer for layer in structure.layers}
    pairs = []
    for name, candidates in kept.items():
        if name not in layers:
            raise InputError(f"kept: no layer {name!r}; this network has {', '.join(layers)}")
        layer, stay = layers[name], list(candidates)
        count = layer.num_candidates
        if not stay or stay != sorted(set(stay)) or not 0 <= stay[0] <= stay[-1] < count:
            raise InputError(
                f"layer {name!r}: kept needs at least one of its {count} candidates, as sorted "
                f"distinct numbers from 0 to {count - 1}; found {stay}"
            )
        pairs.append((layer, sorted(set(range(count)) - set(stay))))
    return pairs


def _collect(channels: dict[str, set[int]], slices: Sequence[Slice], removed: list[int]) -> None:
    """Several layers can take channels from one module: a norm over a concatenation does."""
    for part in slices:
        channels.setdefault(part.module, set()).update(part.of(removed))


def _cut(
    module: nn.Module, channels: set[int], remove: Callable[[nn.Module, list[int]], object]
) -> None:
    frozen = [
        name for name, weight in module.named_parameters(recurse=False) if not weight.requires_grad
    ]
    remove(module, sorted(channels))
    for name in frozen:  # torch-pruning's new parameters all require gradients
        module.get_parameter(name).requires_grad_(False)
