"""Multiply-adds and parameters of any network."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from gfs_dist.networks.measure.modes import evaluating

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def count_params(model: nn.Module) -> int:
    """Numbers in all parameters, a shared one counted once; buffers are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers for one input: see :func:`macs_by_module`."""
    return sum(macs_by_module(model, example).values())


def macs_by_module(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Multiply-adds for one input, of each convolution and linear module, in forward order.

    An output number of a convolution costs ``c_in / groups * kernel`` multiply-adds (transposed:
    an input number costs ``c_out / groups * kernel``), of a linear layer ``c_in``; biases, norms
    and functions without a module count nothing. A module that is called twice counts twice. The
    model runs once, in evaluation mode, and is left as it was.

    Args:
        model: any network.
        example: a batch of inputs, on the model's device.

    Returns:
        Qualified name to multiply-adds of the whole forward pass over the number of inputs.
    """
    totals: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
            handles.append(module.register_forward_hook(_Counter(name, totals)))
    try:
        with evaluating(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total // len(example) for name, total in totals.items()}


class _Counter:
    """A forward hook that adds what its module did."""

    def __init__(self, name: str, totals: dict[str, int]) -> None:
        self.name = name
        self.totals = totals

    def __call__(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            macs = output.numel() * module.in_features
        else:
            numbers, channels = output.numel(), module.in_channels
            if isinstance(module, TRANSPOSED):
                numbers, channels = inputs[0].numel(), module.out_channels
            macs = numbers * channels // module.groups * math.prod(module.kernel_size)
        self.totals[self.name] = self.totals.get(self.name, 0) + macs
