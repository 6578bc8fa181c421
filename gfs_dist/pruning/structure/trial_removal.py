"""Trial removal: finds layers whose removal changes more of the network than their channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gfs_dist.pruning.structure.dependency_graph import is_layer
from gfs_dist.pruning.structure.shrink import mask, shrink
from gfs_dist.pruning.structure.structure import Layer, Structure
from gfs_dist.pruning.structure.torch_pruning import copied, first_line, tensors_of

SEED = 0
TOLERANCE = 1e-9
TOLERANCE_FLOAT32 = 1e-4


def try_removal(model: nn.Module, layers: Sequence[Layer], example: Tensor) -> dict[str, str]:
    """Remove a seeded half of the candidates of every layer and compare with the masked network.

    All layers at once; if that fails, halves of them, down to the ones at fault, so that a sound
    network costs two forward passes. It runs in float64 on random weights: dependencies of channels
    do not depend on the weights' values, and trained or zero-initialised ones can hide an error
    (a branch that ends in a zero scale does not reach the output).

    Returns:
        the reason for each layer at fault.
    """
    generator = torch.Generator().manual_seed(SEED)
    try:
        x = example.double() if example.is_floating_point() else example
        return _faults(_randomised(copied(model).double(), generator), layers, x)
    except RuntimeError:  # the network's own code requires another dtype
        return _faults(_randomised(copied(model), generator), layers, example)


def _faults(network: nn.Module, layers: Sequence[Layer], x: Tensor) -> dict[str, str]:
    sound: list[Layer] = []
    faults: dict[str, str] = {}
    blocks = [list(layers)] if layers else []
    while blocks:
        block = blocks.pop()
        difference = _difference(network, [*sound, *block], x)
        if not difference:
            sound += block
        elif not faults and not sound and (alone := _difference(network, [], x)):
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
def _difference(network: nn.Module, layers: Sequence[Layer], x: Tensor) -> str:
    """How the shrunk network differs from the masked one; empty if it does not."""
    structure = Structure(tuple(layers), ())
    generator = torch.Generator().manual_seed(SEED)
    kept: dict[str, list[int]] = {}
    for layer in layers:
        order = torch.randperm(layer.num_candidates, generator=generator)
        kept[layer.name] = sorted(order[: (len(order) + 1) // 2].tolist())
    masked = list(tensors_of(mask(network, structure, kept)(x.clone())))
    try:
        small = list(tensors_of(shrink(network, structure, kept)(x.clone())))
    except Exception as error:  # noqa: BLE001 - any user's forward pass on other shapes
        return (
            f"its forward pass then fails ({first_line(error)}), as it does where the code "
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
