"""The layers that can be pruned in a network, and why the rest cannot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gfs_dist.errors import InputError
from gfs_dist.networks.graph.allowed import MODULE_NAMES
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.inputs import Inputs
from gfs_dist.networks.models.layer_kinds import is_layer, kernel_size, num_inputs, reads_features
from gfs_dist.pruning.calibration.layer_sites import find_sites
from gfs_dist.pruning.structure.counts import with_counts
from gfs_dist.pruning.structure.dependency_graph import (
    NEVER_CALLED,
    ChannelDependencies,
    ChannelGroup,
    channels_of,
)
from gfs_dist.pruning.structure.influences import influences_in
from gfs_dist.pruning.structure.probed_layers import PARTS, UNEVEN, Prober
from gfs_dist.pruning.structure.structure import Layer, Skipped, Structure
from gfs_dist.pruning.structure.torch_pruning import copied
from gfs_dist.pruning.structure.trial_removal import faults_of, trial_network, try_removal
from gfs_dist.pruning.structure.units import find_units

MAX_INPUTS = 12_288
"""Inputs of a consumer, kernel positions counted, whose moments are still held: 1.2 GB."""

LIMITS = ("grouped convolution", "torch-pruning")
"""Words in reasons that are no reasons for a probe, which tells its own."""

UNCLEAR = (*LIMITS, "mixed by", "splits its channels", "one to one", "combined with those of")
"""Words in reasons behind which a probe may find channels that go together."""


@torch.inference_mode(mode=False)
def find_structure(
    model: nn.Module, example: Tensor | Inputs, *, coupled: bool = False
) -> Structure:
    """Find the channels and hidden units that can be removed from a network.

    Of linear layers that read each other, in attention and feed-forward blocks, influences on real
    passes show which channels go together; of the rest torch-pruning says it, which follows the
    example through a copy of the network. Half of each layer is then removed for a test, and a
    layer stays only if the smaller network computes the same as the one whose weights for those
    channels are zero: a network that is not understood is reported, not broken.

    Args:
        model: maps a tensor to a tensor (or to lists and dictionaries of them); not modified.
        example: a batch for it, on its device; at most two samples are used.
        coupled: find residual widths too: channels that are added to those of other layers.

    Raises:
        InputError: the network cannot be copied, refuses the example, or does not compute its
            output from its weights by differentiable operations.
    """
    example = example[:2]
    network, x = trial_network(model, example)
    units, order, reasons = _units(network, x)
    others: list[Layer] = []
    known = {*reasons}.union(*(layer.cut_modules for layer in units))
    if not order or any(name not in known for name in order):
        try:
            dependencies = ChannelDependencies(model, example)
        except InputError as error:
            if not units:
                raise
            reasons = dict.fromkeys(order, str(error)) | reasons
        else:
            order = dependencies.order
            others, unclear = _channels(dependencies, units, reasons, coupled)
            unclear = [name for name in unclear if name not in known]
            found = [*units, *others]
            others += _probed(dependencies, network, x, unclear, found, reasons, coupled=coupled)
    layers = [*units, *others]
    faults = faults_of(network, x, layers) if others else {}
    for layer in layers:
        if layer.name in faults:
            reasons |= dict.fromkeys(layer.cut_modules, faults[layer.name])
    layers.sort(key=lambda layer: order.index(layer.name))
    sound = [layer for layer in layers if layer.name not in faults]
    taken = set().union(*(layer.cut_modules for layer in sound))
    return Structure(
        tuple(sound),
        tuple(
            Skipped(name, channels_of(network.get_submodule(name)), reasons[name])
            for name in order
            if name not in taken
        ),
    )


def _units(network: nn.Module, x: Tensor | Inputs) -> tuple[list[Layer], list[str], dict[str, str]]:
    """Sound layers that linear layers form among themselves; the order of all layers; reasons.

    Nothing where the network does not take the batch: torch-pruning then says why.
    """
    if sum(map(reads_features, network.modules())) < 2:
        return [], [], {}
    try:
        with influences_in(network, x) as influences:
            units, reasons = find_units(influences)
    except Exception:  # noqa: BLE001 - any user's forward pass; see above
        return [], [], {}
    units = with_counts(network, units, x)
    faults = faults_of(network, x, units)
    called = [name for name, layer in influences.layers.items() if is_layer(layer)]
    names = (name for name, module in network.named_modules() if is_layer(module))
    order = list(dict.fromkeys((*called, *names)))
    reasons |= {name: NEVER_CALLED for name in order if name not in influences.layers}
    return [layer for layer in units if layer.name not in faults], order, reasons


def _channels(
    dependencies: ChannelDependencies, units: list[Layer], reasons: dict[str, str], coupled: bool
) -> tuple[list[Layer], list[str]]:
    """Layers that torch-pruning finds outside units, and producers that it does not understand.

    Args:
        reasons: why a module is in no layer, which become those of torch-pruning.
    """
    layers: list[Layer] = []
    unclear: list[str] = []
    taken = set().union(*(layer.cut_modules for layer in units))
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
    return layers, unclear


def _probed(
    dependencies: ChannelDependencies,
    network: nn.Module,
    x: Tensor | Inputs,
    unclear: Sequence[str],
    known: Sequence[Layer],
    reasons: dict[str, str],
    *,
    coupled: bool,
) -> list[Layer]:
    """Layers that torch-pruning does not understand, found by changing outputs, and tried alone.

    Args:
        network, x: see :func:`trial_network`.
        unclear: their first producers, as far as torch-pruning knows.
        known: layers.
        reasons: why a module is in no layer, which become those of the probe.
    """
    layers: list[Layer] = []
    if not unclear:
        return layers
    single = x.each(_single) if isinstance(x, Inputs) else _single(x)
    prober = Prober(copied(network).float(), network, single, dependencies.fault, coupled=coupled)
    taken = set().union(*(layer.cut_modules for layer in known))
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
        faults = faults_of(network, x, tried)
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
