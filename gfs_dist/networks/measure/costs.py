"""Size and speed of a network: parameters, multiply-adds, latency."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.networks.measure.attention_products import products_by_module
from gfs_dist.networks.measure.evaluation import dtype_of, evaluating, run_with_hook
from gfs_dist.networks.measure.inputs import Batch, Inputs, run
from gfs_dist.networks.models.layer_kinds import CONVOLUTIONS, TRANSPOSED, reads_features
from gfs_dist.networks.models.two_layer import TwoLayer

WARM_UP = 3


def count_params(model: nn.Module) -> int:
    """Numbers in all parameters, a shared one counted once; buffers are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example: Tensor | Inputs) -> int:
    """Multiply-adds of layers and attention for one input: see :func:`macs_by_module`."""
    return sum(macs_by_module(model, example).values())


def macs_by_module(model: nn.Module, example: Tensor | Inputs) -> dict[str, int]:
    """Multiply-adds for one input, of each convolution and linear module, then of attention.

    An output number of a convolution costs ``c_in / groups * kernel`` multiply-adds (transposed:
    an input number costs ``c_out / groups * kernel``), of a linear layer ``c_in``, of a two-layer
    network ``N d + N``. Products of two activations count for the module whose code makes them: see
    :func:`products_by_module`; that is attention, at the example's number of tokens. Biases, norms
    and products of functions with weights count nothing. A module that is called twice counts
    twice. The model runs twice, in evaluation mode, and is left as it was.

    Args:
        example: a batch of inputs, on the model's device.

    Returns:
        Qualified name to multiply-adds of the whole forward pass over the number of inputs.
    """
    totals: dict[str, int] = {}

    def add(name: str, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, TRANSPOSED):
            kernel = math.prod(module.kernel_size)
            macs = inputs[0].numel() * module.out_channels // module.groups * kernel
        elif isinstance(module, TwoLayer):
            macs = output.numel() * module.width * (module.features + 1)
        elif isinstance(module, CONVOLUTIONS):
            kernel = math.prod(module.kernel_size)
            macs = output.numel() * module.in_channels // module.groups * kernel
        elif reads_features(module):
            macs = output.numel() * getattr(module, "in_features", len(module.weight))
        else:
            return
        totals[name] = totals.get(name, 0) + macs

    run_with_hook(model, example, add)
    for name, macs in products_by_module(model, example).items():
        totals[name] = totals.get(name, 0) + macs
    return {name: total // len(example) for name, total in totals.items()}


@dataclass(frozen=True)
class Latency:
    """Seconds one forward pass takes: median, least and most of ``repeats`` after a warm-up."""

    batch: int
    repeats: int
    median_s: float
    min_s: float
    max_s: float


def latency(network: nn.Module, x: Batch, repeats: int = 30) -> Latency:
    """Time the forward pass in evaluation mode on inputs (batch, ...), on the device they are on.

    Floating inputs are taken in the network's dtype. The network is left as it was.
    """
    if isinstance(x, Tensor) and x.is_floating_point():
        x = x.to(dtype_of(network))
    times = []
    with evaluating(network):
        for _ in range(repeats + WARM_UP):
            start = time.perf_counter()
            run(network, x)
            if x.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    times = times[WARM_UP:]
    return Latency(len(x), repeats, statistics.median(times), min(times), max(times))
