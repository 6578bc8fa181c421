"""What is reported of a network: outputs, loss, accuracy and speed; sizes of two-layer ones."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import ConfigError
from gfs_dist.networks.measure.modes import dtype_of, evaluating
from gfs_dist.networks.models.two_layer import TwoLayer

LOSSES = ("squared", "bce")
CHUNK_ELEMENTS = 2**23
WARM_UP = 3


def loss_sum(outputs: Tensor, target: Tensor, loss: str) -> Tensor:
    """Loss summed over samples, a scalar: ``sum (u - y)^2 / 2``, or BCE of logits.

    Raises:
        ConfigError: unknown loss.
    """
    if loss == "squared":
        return (outputs - target).square().sum() / 2
    if loss == "bce":
        return functional.binary_cross_entropy_with_logits(outputs, target, reduction="sum")
    raise ConfigError(f"objective: found {loss!r}, accepted {', '.join(LOSSES)}")


def mean_loss(outputs: Tensor, target: Tensor, loss: str) -> float:
    """Loss averaged over samples: ``sum (u - y)^2 / (2 m)``, or mean BCE of logits."""
    return float(loss_sum(outputs.detach(), target, loss)) / len(target)


def accuracy(outputs: Tensor, target: Tensor) -> float:
    """Share of samples on the right side: ``f > 0`` where the target is positive."""
    return float(((outputs > 0) == (target > 0)).double().mean())


def row_chunks(num_samples: int, width: int) -> list[slice]:
    """Fixed ranges of samples whose hidden layer takes at most 64 MiB in float64."""
    rows = max(1, CHUNK_ELEMENTS // width)
    return [slice(start, start + rows) for start in range(0, num_samples, rows)]


@torch.no_grad()
def outputs(network: TwoLayer, x: Tensor) -> Tensor:
    """Outputs float64 (m,) of a network for any number of inputs (m, d), chunk by chunk."""
    parts = [network(x[rows]).double() for rows in row_chunks(len(x), network.width)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def params(network: TwoLayer) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: TwoLayer) -> int:
    """Multiply-adds of the linear layers for one input: N d + N."""
    return network.width * (network.features + 1)


@dataclass(frozen=True)
class Latency:
    """Seconds one forward pass takes: median, least and most of ``repeats`` after a warm-up."""

    batch: int
    repeats: int
    median_s: float
    min_s: float
    max_s: float


def latency(network: nn.Module, x: Tensor, repeats: int = 30) -> Latency:
    """Time the forward pass in evaluation mode on inputs (batch, ...), on the device they are on.

    Floating inputs are taken in the network's dtype. The network is left as it was.
    """
    if x.is_floating_point():
        x = x.to(dtype_of(network))
    times = []
    with evaluating(network):
        for _ in range(repeats + WARM_UP):
            start = time.perf_counter()
            network(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            times.append(time.perf_counter() - start)
    times = times[WARM_UP:]
    return Latency(len(x), repeats, statistics.median(times), min(times), max(times))
