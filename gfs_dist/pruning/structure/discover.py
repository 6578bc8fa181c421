"""What can be pruned in a network, and why the rest cannot."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfs_dist.errors import InputError
from gfs_dist.pruning.structure.dependency_graph import ChannelDependencies, ChannelGroup
from gfs_dist.pruning.structure.structure import Layer, Skipped, Structure
from gfs_dist.pruning.structure.trial_removal import try_removal


@torch.inference_mode(mode=False)
def find_structure(model: nn.Module, example: Tensor, *, coupled: bool = False) -> Structure:
    """Find the channels and hidden units that can be removed from a network.

    torch-pruning follows the example through a copy of the network and says which channels go
    together. Half of each layer is then removed for a test, and a layer stays only if the smaller
    network computes the same as the one in which nobody reads those channels: a network that is
    not understood is reported, not broken.

    Args:
        model: maps a tensor to a tensor (or to lists and dictionaries of them); not modified.
        example: a batch for it, on its device; at most two samples are used.
        coupled: find residual widths too: channels that are added to those of other layers.

    Raises:
        InputError: the network cannot be copied, refuses the example, or does not compute its
            output from its weights by differentiable operations.
    """
    dependencies = ChannelDependencies(model, example[:2])
    layers: list[Layer] = []
    reasons: dict[str, str] = {}
    losers: set[str] = set()
    for name in dependencies.order:
        if name in losers:
            continue
        group = dependencies.group(name)
        reasons[name] = _reason(group, losers, coupled)
        if not reasons[name]:
            layers.append(_layer(group))
            losers |= _losers(layers[-1])
    faults = try_removal(model, layers, example[:2])
    for layer in layers:
        if layer.name in faults:
            reasons |= dict.fromkeys(_losers(layer), faults[layer.name])
    layers.sort(key=lambda layer: dependencies.order.index(layer.name))
    sound = [layer for layer in layers if layer.name not in faults]
    losers = set().union(*map(_losers, sound))
    skipped = [name for name in dependencies.order if name not in losers]
    return Structure(
        tuple(sound),
        tuple(Skipped(name, dependencies.channels(name), reasons[name]) for name in skipped),
    )


def nothing_to_prune(network: str, structure: Structure) -> InputError:
    """The error for a network without a single layer to prune; names the first three reasons."""
    reasons = [f"{skip.name!r}: {skip.reason}" for skip in structure.skipped]
    first = "; ".join(reasons[:3]) or "it has no convolutions and no linear layers"
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return InputError(
        f"network {network}: nothing in it can be pruned ({first}{more}); accepted is one where a "
        "convolution or linear layer reads the channels of another"
    )


def _reason(group: ChannelGroup, losers: set[str], coupled: bool) -> str:
    """Why a group is not a layer; empty if it is one."""
    if group.obstacle:
        return group.obstacle
    if group.added_to and not coupled:
        return (
            f"its channels are added to those of {group.added_to!r}: residual width "
            "(coupled=true prunes these)"
        )
    for producer in group.producers:
        if producer.module in losers:
            return f"its channels go with some of those of {producer.module!r}, a layer of its own"
    return ""


def _layer(group: ChannelGroup) -> Layer:
    first = group.producers[0]
    return Layer(
        name=first.module,
        num_candidates=len(first.channels),
        producers=tuple(group.producers),
        carriers=tuple(group.carriers),
        consumers=tuple(group.consumers),
    )


def _losers(layer: Layer) -> set[str]:
    return {part.module for part in (*layer.producers, *layer.carriers)}
