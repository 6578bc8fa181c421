"""Layers whose weights join channels, of every kind, seen alike: convolutions and linear layers.

Besides those of torch.nn this is ``Conv1D`` of Hugging Face's transformers (GPT-2), a linear layer
whose weight is (inputs, outputs).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def is_layer(module: nn.Module) -> bool:
    """Convolutions (transposed ones too) and linear layers: what can lose channels."""
    return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) or reads_features(module)


def reads_features(module: nn.Module) -> bool:
    """Whether it is a linear layer, whose channels lie along the last axis."""
    return isinstance(module, nn.Linear) or is_transformers_conv1d(module)


def is_transformers_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of transformers that is called a convolution."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def num_groups(module: nn.Module) -> int:
    """Parts of the outputs, each of which reads a part of the inputs of its own."""
    return int(getattr(module, "groups", 1))


def blocks(module: nn.Module) -> Tensor:
    """The weight of a layer as (groups, outputs, inputs, ...kernel), those of a group: a view."""
    weight: Any = module.weight  # a parameter, or computed from others
    if is_transformers_conv1d(module):
        return weight.T[None]
    split = weight.unflatten(0, (num_groups(module), -1))
    return split.transpose(1, 2) if getattr(module, "transposed", False) else split


def num_outputs(module: nn.Module) -> int:
    """Output channels or features of a layer."""
    groups, outputs, *_ = blocks(module).shape
    return groups * outputs


def num_inputs(module: nn.Module) -> int:
    """Input channels or features of a layer."""
    groups, _, inputs, *_ = blocks(module).shape
    return groups * inputs


def kernel_size(module: nn.Module) -> int:
    """Weights for each pair of an output and an input that are joined."""
    return math.prod(blocks(module).shape[3:])


def weight_matrix(module: nn.Module) -> Tensor:
    """The weight as a map of patches, (outputs, inputs kernel), channel by channel.

    With groups, zeros join outputs with inputs of another group.
    """
    parts = blocks(module).flatten(2)
    return parts[0] if len(parts) == 1 else torch.block_diag(*parts)


@torch.no_grad()
def set_weight_matrix(module: nn.Module, matrix: Tensor) -> None:
    """Write what :func:`weight_matrix` reads."""
    own = blocks(module)
    groups, outputs, inputs = own.shape[0], own.shape[1], own[0, 0].numel()
    parts = matrix.reshape(groups, outputs, groups, inputs).diagonal(dim1=0, dim2=2)
    own.copy_(parts.movedim(-1, 0).reshape(own.shape))


@torch.no_grad()
def scale_inputs(module: nn.Module, channels: Iterable[int], factor: float) -> None:
    """Multiply the weights that read some input channels."""
    own = blocks(module)
    chosen = torch.tensor(sorted(channels), dtype=torch.int64, device=own.device)
    groups, places = chosen // own.shape[2], chosen % own.shape[2]
    own[groups, :, places] = own[groups, :, places] * factor if factor else 0.0


def count_channels(module: Any) -> None:
    """Write the sizes of its weight into a layer's attributes."""
    inputs, outputs = num_inputs(module), num_outputs(module)
    sizes = {
        **dict.fromkeys(("in_channels", "in_features", "nx"), inputs),
        **dict.fromkeys(("out_channels", "out_features", "nf"), outputs),
    }
    for name, size in sizes.items():
        if hasattr(module, name):
            setattr(module, name, size)
