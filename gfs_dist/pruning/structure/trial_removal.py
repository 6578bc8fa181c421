"""Removes parts of a network for a test, and compares it with the masked one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from gfs_dist.errors import error_line
from gfs_dist.networks.measure.inputs import MASK, Inputs, run, tensors_of
from gfs_dist.networks.models.layer_kinds import is_layer
from gfs_dist.pruning.structure.shrink import mask, shrink
from gfs_dist.pruning.structure.structure import Layer, Structure
from gfs_dist.pruning.structure.torch_pruning import copied

SEED = 0
TINY = 1e-2
"""Scales of branches begin as small as this, and hide what a branch computes."""

TOLERANCE = 1e-9
TOLERANCE_FLOAT32 = 1e-4

TOKENS = 8
"""That suffice to see what depends on what."""


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
    return faults_of(*trial_network(model, example), layers, other_half=other_half)


@torch.no_grad()
def trial_network(model: nn.Module, example: Tensor | Inputs) -> tuple[nn.Module, Tensor | Inputs]:
    """A copy with random weights, in float64 if its code takes that, and a small batch for it."""
    generator = torch.Generator().manual_seed(SEED)
    for x in (_short(example), example):
        is_whole = isinstance(x, Tensor) and not x.is_floating_point()
        x = x if is_whole else x.double()
        network = randomised(copied(model).double(), generator)
        with suppress(Exception):  # the network's own code requires another dtype, or length
            run(network, x.clone())
            return network, x
    return randomised(copied(model), generator), example


def _short(example: Tensor | Inputs) -> Tensor | Inputs:
    """The first tokens of batches of whole numbers (samples, tokens), or the last ones if the first
    are padding.
    """
    if isinstance(example, Tensor):
        return example[:, :TOKENS] if _is_text(example) else example
    if not all(map(_is_text, example.tensors.values())):
        return example
    mask = example.tensors.get(MASK)
    last = mask is not None and bool((mask[:, -TOKENS:] != 0).sum() > (mask[:, :TOKENS] != 0).sum())
    return example.each(lambda x: x[:, -TOKENS:] if last else x[:, :TOKENS])


def _is_text(x: Tensor) -> bool:
    return x.ndim == 2 and not x.is_floating_point()


def faults_of(
    network: nn.Module,
    x: Tensor | Inputs,
    layers: Sequence[Layer],
    *,
    other_half: bool = False,
) -> dict[str, str]:
    """See :func:`try_removal`; the network has random weights."""
    sound: list[Layer] = []
    faults: dict[str, str] = {}
    blocks = [list(layers)] if layers else []
    while blocks:
        block = blocks.pop()
        difference = difference_of(network, [*sound, *block], x, other_half)
        if not difference:
            sound += block
        elif not faults and not sound and (alone := difference_of(network, [], x, other_half)):
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
def difference_of(
    network: nn.Module, layers: Sequence[Layer], x: Tensor | Inputs, other_half: bool = False
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
def randomised(network: nn.Module, generator: torch.Generator) -> nn.Module:
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
        elif not is_layer(module):
            for name, tensor in own.items():
                if name != "bias" and float(tensor.abs().max()) < TINY:  # a scale of a branch
                    tensor.copy_(random(tensor, 0.5, 1.5))
            continue
        if "bias" in own:
            own["bias"].copy_(random(own["bias"], -0.1, 0.1))
    return network
