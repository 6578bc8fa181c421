"""The layers that can be pruned in a network, and why the rest cannot."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfs_dist.errors import InputError
from gfs_dist.networks.graph.allowed import MODULE_NAMES
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.pruning.calibration.layer_sites import find_sites
from gfs_dist.pruning.structure.dependency_graph import (
    ChannelDependencies,
    ChannelGroup,
    is_layer,
)
from gfs_dist.pruning.structure.structure import Layer, Skipped, Structure
from gfs_dist.pruning.structure.trial_removal import try_removal

MAX_INPUTS = 12_288
"""Inputs of a consumer, kernel positions counted, whose moments are still held: 1.2 GB."""


@torch.inference_mode(mode=False)
def find_structure(model: nn.Module, example: Tensor, *, coupled: bool = False) -> Structure:
    """Find the channels and hidden units that can be removed from a network.

    torch-pruning follows the example through a copy of the network and says which channels go
    together. Half of each layer is then removed for a test, and a layer stays only if the smaller
    network computes the same as the one whose weights for those channels are zero: a network that
    is not understood is reported, not broken.

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
    taken: set[str] = set()
    for name in dependencies.order:
        if name in taken:
            continue
        group = dependencies.group(name)
        reasons[name] = _reason(group, taken, coupled)
        if not reasons[name]:
            layers.append(
                Layer(
                    name=group.producers[0].module,
                    num_candidates=len(group.producers[0].channels),
                    producers=tuple(group.producers),
                    carriers=tuple(group.carriers),
                    consumers=tuple(group.consumers),
                )
            )
            taken |= layers[-1].cut_modules
    faults = try_removal(model, layers, example[:2])
    for layer in layers:
        if layer.name in faults:
            reasons |= dict.fromkeys(layer.cut_modules, faults[layer.name])
    layers.sort(key=lambda layer: dependencies.order.index(layer.name))
    sound = [layer for layer in layers if layer.name not in faults]
    taken = set().union(*(layer.cut_modules for layer in sound))
    skipped = [name for name in dependencies.order if name not in taken]
    return Structure(
        tuple(sound),
        tuple(Skipped(name, dependencies.channels(name), reasons[name]) for name in skipped),
    )


def _reason(group: ChannelGroup, taken: set[str], coupled: bool) -> str:
    """Why a group is not a layer; empty if it is one."""
    if group.obstacle:
        return group.obstacle
    if group.added_to and not coupled:
        return (
            f"its channels are added to those of {group.added_to!r}: residual width "
            "(coupled=true prunes these)"
        )
    for producer in group.producers:
        if producer.module in taken:
            return f"its channels go with some of those of {producer.module!r}, a layer of its own"
    return ""


def nothing_to_prune(network: str, structure: Structure) -> InputError:
    """The error for a network without a single layer to prune; names the first three reasons."""
    reasons = [f"{skip.name!r}: {skip.reason}" for skip in structure.skipped]
    first = "; ".join(reasons[:3]) or "it has no convolutions and no linear layers"
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return InputError(
        f"network {network}: nothing in it can be pruned ({first}{more}); accepted is one where a "
        "convolution or linear layer reads the channels of another"
    )


def keep_fittable(
    model: nn.Module, network: GraphNetwork, structure: Structure, example: Tensor
) -> Structure:
    """Layers that the recorded network can lose, and whose consumers can be fitted, stay.

    The others are skipped, with the reason. An attribute that the code reads while it runs, such as
    ``conv.out_channels``, is a fixed number in the recorded steps.
    """
    sites = {site.module for site in find_sites(network, example)}
    reasons = {layer.name: _why_not(model, network, layer, sites) for layer in structure.layers}
    reasons |= try_removal(network, [x for x in structure.layers if not reasons[x.name]], example)
    skipped = [
        Skipped(part.module, layer.num_candidates, reasons[layer.name])
        for layer in structure.layers
        if reasons[layer.name]
        for part in layer.producers
    ]
    layers = tuple(layer for layer in structure.layers if not reasons[layer.name])
    return Structure(layers, (*structure.skipped, *skipped))


def _why_not(model: nn.Module, network: GraphNetwork, layer: Layer, sites: set[str]) -> str:
    recorded = {name for name, _ in network.named_modules(remove_duplicate=False)}
    for part in (*layer.cut_slices, *layer.consumers):
        module = model.get_submodule(part.module)
        # Of a norm of another class, the tensors are cut; one without any has no place.
        alone = is_layer(module) or part.module not in recorded
        if alone and type(module) not in MODULE_NAMES:
            kind = type(module).__name__
            return f"{part.module!r} is a {kind}, accepted are the layers of torch.nn themselves"
    for name in (part.module for part in layer.consumers):
        module = network.get_submodule(name)
        if name not in sites:
            return (
                f"read by {name!r}, a {type(module).__name__} whose weights cannot be fitted "
                "(linear layers and ungrouped 2-d convolutions with zero padding can)"
            )
        inputs = module.get_parameter("weight")[0].numel()
        if inputs > MAX_INPUTS:
            return f"read by {name!r}, which has {inputs:,} inputs, accepted {MAX_INPUTS:,}"
    return ""
