"""The layers that can be pruned in a network, and why the rest cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gfs_dist.errors import InputError, error_line
from gfs_dist.networks.graph.allowed import MODULE_NAMES
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.inputs import Inputs, run, tensors_of
from gfs_dist.networks.models.layer_kinds import (
    is_layer,
    kernel_size,
    num_inputs,
    reads_features,
)
from gfs_dist.pruning.calibration.layer_sites import find_sites
from gfs_dist.pruning.structure.dependency_graph import ChannelDependencies, ChannelGroup
from gfs_dist.pruning.structure.probed_layers import PARTS, UNEVEN, Prober
from gfs_dist.pruning.structure.shrink import mask, shrink
from gfs_dist.pruning.structure.structure import Layer, Skipped, Structure
from gfs_dist.pruning.structure.torch_pruning import copied

MAX_INPUTS = 12_288
"""Inputs of a consumer, kernel positions counted, whose moments are still held: 1.2 GB."""

LIMITS = ("grouped convolution", "torch-pruning")
"""Words in reasons that are no reasons for a probe, which tells its own."""

UNCLEAR = (*LIMITS, "mixed by", "splits its channels", "one to one", "combined with those of")
"""Words in reasons behind which a probe may find channels that go together."""

SEED = 0
TOLERANCE = 1e-9
TOLERANCE_FLOAT32 = 1e-4


@torch.inference_mode(mode=False)
def find_structure(
    model: nn.Module, example: Tensor | Inputs, *, coupled: bool = False
) -> Structure:
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
    unclear: list[str] = []
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
        elif any(word in group.obstacle for word in UNCLEAR):
            # Behind a linear layer, a LayerNorm mixes its channels for certain.
            mixed = "mixed by LayerNorm" in group.obstacle
            unclear += [] if mixed and reads_features(dependencies.module(name)) else [name]
    layers += _probed(model, dependencies, example[:2], unclear, taken, reasons, coupled=coupled)
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


def _probed(
    model: nn.Module,
    dependencies: ChannelDependencies,
    example: Tensor | Inputs,
    unclear: Sequence[str],
    taken: set[str],
    reasons: dict[str, str],
    *,
    coupled: bool,
) -> list[Layer]:
    """Layers that torch-pruning does not understand, found by changing outputs, and tried alone.

    Args:
        unclear: their first producers, as far as torch-pruning knows.
        taken: modules of layers, to which those found are added.
        reasons: why a module is in no layer, which become those of the probe.
    """
    layers: list[Layer] = []
    if not unclear:
        return layers
    copy = _randomised(copied(model).float(), torch.Generator().manual_seed(SEED))
    x = example.each(_single) if isinstance(example, Inputs) else _single(example)
    prober = Prober(copy, model, x, dependencies.fault, coupled=coupled)
    for parts in (1, *PARTS):
        tried: list[Layer] = []
        uneven: list[str] = []
        for name in unclear:
            try:
                found = prober.layer(name, parts)
            except Exception:  # noqa: BLE001 - any user's forward pass on numbers not its own
                break
            if isinstance(found, str):
                if any(limit in reasons[name] for limit in LIMITS):
                    reasons[name] = found
                uneven += [name] if found == UNEVEN else []
            elif not found.cut_modules & taken.union(*(one.cut_modules for one in tried)):
                tried.append(found)
        faults = try_removal(model, tried, example)
        sound = [layer for layer in tried if layer.name not in faults]
        layers += sound
        taken.update(*(layer.cut_modules for layer in sound))
        unclear = [*uneven, *(layer.name for layer in tried if layer.name in faults)]
    return layers


def _single(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


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
    model: nn.Module,
    network: GraphNetwork,
    structure: Structure,
    example: Tensor | Inputs,
) -> Structure:
    """Layers that the recorded network can lose, and whose consumers can be fitted, stay.

    The others are skipped, with the reason. An attribute that the code reads while it runs, such as
    ``conv.out_channels``, is a fixed number in the recorded steps.
    """
    sites = {site.module for site in find_sites(network, example)}
    reasons = {layer.name: _why_not(model, network, layer, sites) for layer in structure.layers}
    left = [layer for layer in structure.layers if not reasons[layer.name]]
    reasons |= try_removal(network, left, example, other_half=True)
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
        # Of a norm of another class, the tensors are cut; one without any has no place. Recorded
        # steps of a layer of another class are those of its code, which know no layer.
        cut = part.module in recorded and (
            not is_layer(module) or is_layer(network.get_submodule(part.module))
        )
        if not cut and type(module) not in MODULE_NAMES:
            kind = type(module).__name__
            return f"{part.module!r} is a {kind}, accepted are the layers of torch.nn themselves"
    for name in (part.module for part in layer.consumers):
        module = network.get_submodule(name)
        if name not in sites:
            return (
                f"read by {name!r}, a {type(module).__name__} whose weights cannot be fitted (of "
                "a linear layer or convolution that is called once, with one tensor, and computes "
                "what that of torch.nn does, they can)"
            )
        inputs = num_inputs(module) * kernel_size(module)
        if inputs > MAX_INPUTS:
            return f"read by {name!r}, which has {inputs:,} inputs, accepted {MAX_INPUTS:,}"
    return ""


def try_removal(
    model: nn.Module,
    layers: Sequence[Layer],
    example: Tensor | Inputs,
    *,
    other_half: bool = False,
) -> dict[str, str]:
    """Remove a seeded half of the candidates of every layer, or the other half, and compare with
    the masked network.

    All layers at once; if that fails, halves of them, down to the ones at fault, so that a sound
    network costs two forward passes. It runs in float64 on random weights: dependencies of channels
    do not depend on the weights' values, and trained or zero-initialised ones can hide an error
    (a branch that ends in a zero scale does not reach the output).

    Returns:
        the reason for each layer at fault.
    """
    generator = torch.Generator().manual_seed(SEED)
    try:
        is_whole = isinstance(example, Tensor) and not example.is_floating_point()
        x = example if is_whole else example.double()
        return _faults(_randomised(copied(model).double(), generator), layers, x, other_half)
    except RuntimeError:  # the network's own code requires another dtype
        return _faults(_randomised(copied(model), generator), layers, example, other_half)


def _faults(
    network: nn.Module, layers: Sequence[Layer], x: Tensor | Inputs, other_half: bool
) -> dict[str, str]:
    sound: list[Layer] = []
    faults: dict[str, str] = {}
    blocks = [list(layers)] if layers else []
    while blocks:
        block = blocks.pop()
        difference = _difference(network, [*sound, *block], x, other_half)
        if not difference:
            sound += block
        elif not faults and not sound and (alone := _difference(network, [], x, other_half)):
            reason = (
                "two passes over one input differ with nothing removed (random numbers or counters "
                f"in its forward?): {alone}"
            )
            return dict.fromkeys((layer.name for layer in layers), reason)
        elif len(block) == 1:
            faults[block[0].name] = (
                f"removing its channels changes the rest of the network: {difference}"
            )
        else:
            half = len(block) // 2
            blocks += [block[half:], block[:half]]
    return faults


@torch.no_grad()
def _difference(
    network: nn.Module, layers: Sequence[Layer], x: Tensor | Inputs, other_half: bool
) -> str:
    """How the shrunk network differs from the masked one; empty if it does not."""
    structure = Structure(tuple(layers), ())
    generator = torch.Generator().manual_seed(SEED)
    kept: dict[str, list[int]] = {}
    for layer in layers:
        order = torch.randperm(layer.num_candidates, generator=generator)
        order = order.flip(0) if other_half else order
        kept[layer.name] = sorted(order[: (len(order) + 1) // 2].tolist())
    masked = list(tensors_of(run(mask(network, structure, kept), x.clone())))
    try:
        small = list(tensors_of(run(shrink(network, structure, kept), x.clone())))
    except Exception as error:  # noqa: BLE001 - any user's forward pass on other shapes
        return (
            f"its forward pass then fails ({error_line(error)}), as it does where the code "
            "names a number of channels in place of reading x.shape, or keeps a tensor with an "
            "entry for each (FrozenBatchNorm2d: make it a BatchNorm2d)"
        )
    for one, other in zip(masked, small, strict=True):
        if one.shape != other.shape:
            return f"an output of shape {tuple(one.shape)} becomes {tuple(other.shape)}"
        tolerance = TOLERANCE if one.dtype == torch.float64 else TOLERANCE_FLOAT32
        wide = torch.promote_types(one.dtype, torch.float64)
        largest = float(one.to(wide).abs().max())
        distance = float((one.to(wide) - other.to(wide)).abs().max())
        if not distance <= tolerance * largest:
            return f"its output changes by up to {distance:.2g} (largest output {largest:.2g})"
    return ""


@torch.no_grad()
def _randomised(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network itself, with random weights of healthy size in its layers and norms."""

    def random(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator).mul_(high - low).add_(low)

    for module in network.modules():
        own = dict(module.named_parameters(recurse=False))
        buffers = dict(module.named_buffers(recurse=False))
        if is_layer(module) and "weight" in own:
            weight = own["weight"]
            limit = math.sqrt(6 / max(1, weight[0].numel()))  # variance 2 / fan_in
            weight.copy_(random(weight, -limit, limit))
        elif "running_var" in buffers and "running_mean" in buffers:
            buffers["running_mean"].copy_(random(buffers["running_mean"], -0.1, 0.1))
            buffers["running_var"].copy_(random(buffers["running_var"], 0.5, 1.5))
            if "weight" in own:
                own["weight"].copy_(random(own["weight"], 0.5, 1.5))
        else:
            continue
        if "bias" in own:
            own["bias"].copy_(random(own["bias"], -0.1, 0.1))
    return network
