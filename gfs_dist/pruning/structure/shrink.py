"""Candidates switched off (mask) or removed for good (shrink)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.errors import InputError
from gfs_dist.networks.models.layer_kinds import (
    blocks,
    count_channels,
    is_layer,
    is_transformers_conv1d,
    scale_inputs,
)
from gfs_dist.pruning.structure.structure import Count, Structure

COUNTS = ("num_features", "num_channels", "num_parameters")
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
        scale_inputs(masked.get_submodule(name), channels, 0.0)
    return masked


def shrink(model: nn.Module, structure: Structure, kept: Kept) -> nn.Module:
    """A physically smaller copy, equal to :func:`mask` of the same arguments on every input.

    Training mode and ``requires_grad`` are those of ``model``. Arguments and errors: see
    :func:`mask`.
    """
    smaller = copy.deepcopy(model)
    outputs, inputs = removed_channels(structure, kept)
    for name in outputs.keys() | inputs.keys():
        module: Any = smaller.get_submodule(name)
        lost = outputs.get(name, set())
        if is_layer(module):
            _cut_layer(module, lost, inputs.get(name, set()))
            continue
        if isinstance(module, nn.Embedding):
            _cut(module, "weight", lost, axis=1)
            module.embedding_dim -= len(lost)
            continue
        # A network in recorded steps holds the tensors of a class that it does not know in a plain
        # module: there are no sizes in it to be kept.
        for size in COUNTS:
            if hasattr(module, size):
                setattr(module, size, getattr(module, size) - len(lost))
        for key in PER_OUTPUT:
            if getattr(module, key, None) is not None:
                _cut(module, key, lost)
    for layer in structure.layers:
        removed = layer.num_candidates - len(kept.get(layer.name, range(layer.num_candidates)))
        for count in layer.counts if removed else ():
            lower_count(smaller, count, removed)
    return smaller


def lower_count(network: nn.Module, count: Count, candidates: int) -> None:
    """Let a number fall with some candidates.

    A configuration is shared by all modules: the module gets a copy of its own. A network in
    recorded steps has neither: its numbers are constants.
    """
    owner: Any = network.get_submodule(count.module)
    holder, _, attribute = count.attribute.rpartition(".")
    if holder and hasattr(owner, holder):
        setattr(owner, holder, copy.copy(getattr(owner, holder)))
        owner = getattr(owner, holder)
    if hasattr(owner, attribute):
        setattr(owner, attribute, getattr(owner, attribute) - candidates * count.each)


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


def kept_blocks(module: nn.Module, outputs: set[int], inputs: set[int]) -> tuple[Tensor, ...]:
    """What a layer keeps: indices into :func:`.layer_kinds.blocks` that give its smaller weight.

    A group that loses all its outputs goes with its inputs (depthwise: with each channel).

    Raises:
        ValueError: groups that stay keep different numbers of channels.
    """
    groups, per_group, reads, *_ = blocks(module).shape
    stay = [_kept_places(g, per_group, outputs) for g in range(groups)]
    read = [_kept_places(g, reads, inputs) for g in range(groups)]
    whole = [g for g in range(groups) if stay[g]]
    device = module.get_parameter("weight").device
    rows = torch.tensor([stay[g] for g in whole], device=device)
    columns = torch.tensor([read[g] for g in whole], device=device)
    return torch.tensor(whole, device=device)[:, None, None], rows[:, :, None], columns[:, None]


def _kept_places(group: int, size: int, lost: set[int]) -> list[int]:
    """Places within one group of its channels that stay."""
    return [place for place in range(size) if group * size + place not in lost]


@torch.no_grad()
def _cut_layer(module: Any, outputs: set[int], inputs: set[int]) -> None:
    old, bias = module.weight, module.bias
    small = blocks(module)[kept_blocks(module, outputs, inputs)]
    if hasattr(module, "groups"):
        module.groups = len(small)
    if getattr(module, "transposed", False):
        small = small.transpose(1, 2)
    small = small[0].T if is_transformers_conv1d(module) else small.flatten(0, 1)
    module.weight = nn.Parameter(small.contiguous(), old.requires_grad)
    if bias is not None:
        _cut(module, "bias", outputs)
    count_channels(module)


@torch.no_grad()
def _cut(module: nn.Module, name: str, channels: set[int], axis: int = 0) -> None:
    old = getattr(module, name)
    kept = [channel for channel in range(old.shape[axis]) if channel not in channels]
    new = old.index_select(axis, torch.tensor(kept, device=old.device))
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, old.requires_grad)
    setattr(module, name, new)
