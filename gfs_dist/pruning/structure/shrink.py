"""Candidates switched off (mask) or removed for good (shrink)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gfs_dist.errors import InputError
from gfs_dist.pruning.structure.structure import Structure

OUTPUTS = ("out_channels", "out_features", "num_features", "num_parameters")
INPUTS = ("in_channels", "in_features")
PER_OUTPUT = ("weight", "bias", "running_mean", "running_var")

Kept = Mapping[str, Sequence[int]]
"""By layer the sorted candidates that stay; layers that are absent stay whole."""


@torch.no_grad()
def mask(model: nn.Module, structure: Structure, kept: Kept) -> nn.Module:
    """A copy in which the input weights of all candidates that are not kept are zero.

    Shapes, and all other weights, stay.

    Args:
        model: the network, or one of the same shapes with other weights or added biases.
        structure: of it, see :func:`find_structure`.
        kept: candidates that stay.

    Raises:
        InputError: ``kept`` names an unknown layer, or its numbers are none, unsorted or too large.
    """
    masked = copy.deepcopy(model)
    for name, channels in removed_channels(structure, kept)[1].items():
        by_inputs(masked.get_submodule(name))[sorted(channels)] = 0
    return masked


def shrink(model: nn.Module, structure: Structure, kept: Kept) -> nn.Module:
    """A physically smaller copy, equal to :func:`mask` of the same arguments on every input.

    Training mode and ``requires_grad`` are those of ``model``. Arguments and errors: see
    :func:`mask`.
    """
    smaller = copy.deepcopy(model)
    outputs, inputs = removed_channels(structure, kept)
    for name, channels in outputs.items():
        module = smaller.get_submodule(name)
        if getattr(module, "groups", 1) > 1:  # depthwise
            _count_down(module, ("groups", *INPUTS), channels)
        # A network in recorded steps holds the tensors of a class that it does not know in a plain
        # module: there are no sizes in it to be kept.
        _count_down(module, OUTPUTS, channels)
        for key in PER_OUTPUT:
            tensor = getattr(module, key, None)
            if tensor is not None:
                _cut(module, key, outputs_axis(module) if tensor.ndim > 1 else 0, channels)
    for name, channels in inputs.items():
        module = smaller.get_submodule(name)
        _count_down(module, INPUTS, channels)
        _cut(module, "weight", 1 - outputs_axis(module), channels)
    return smaller


def removed_channels(
    structure: Structure, kept: Kept
) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Outputs and inputs that each module loses.

    Several layers can take channels from one module: a norm over a concatenation does.

    Raises:
        InputError: see :func:`mask`.
    """
    layers = {layer.name: layer for layer in structure.layers}
    outputs: dict[str, set[int]] = {}
    inputs: dict[str, set[int]] = {}
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
        removed = sorted(set(range(count)) - set(stay))
        for part in layer.cut_slices:
            outputs.setdefault(part.module, set()).update(part.of(removed))
        for part in layer.consumers:
            inputs.setdefault(part.module, set()).update(part.of(removed))
    return outputs, inputs


def outputs_axis(module: nn.Module) -> int:
    """Where a weight has the module's outputs: 1 in a transposed convolution, 0 in all others.

    A transposed depthwise convolution has a row for each channel too.
    """
    return int(getattr(module, "transposed", False) and module.groups == 1)


def by_inputs(consumer: nn.Module) -> Tensor:
    """The weight of a convolution or linear layer, seen with its inputs in front."""
    weight = consumer.get_parameter("weight")
    return weight if getattr(consumer, "transposed", False) else weight.transpose(0, 1)


def _count_down(module: nn.Module, sizes: Sequence[str], channels: set[int]) -> None:
    for size in sizes:
        if hasattr(module, size):
            setattr(module, size, getattr(module, size) - len(channels))


@torch.no_grad()
def _cut(module: nn.Module, name: str, axis: int, channels: set[int]) -> None:
    old = getattr(module, name)
    kept = [channel for channel in range(old.shape[axis]) if channel not in channels]
    new = old.index_select(axis, torch.tensor(kept, device=old.device))
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, old.requires_grad)
    setattr(module, name, new)
