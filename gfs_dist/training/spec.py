"""Specification and state of a training, and signs that it diverges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gfs_dist.errors import ConfigError, RunError
from gfs_dist.networks.models.two_layer import DTYPES

METHODS = ("gd", "sgd")
RISE = 0.05
"""Of the first loss: by less, noise of mini-batches moves the loss of one that still falls."""


@dataclass(frozen=True)
class _Descent:
    """What every training by gradient descent has."""

    iterations: int
    lr: float | None
    batch: int = 128
    momentum: float = 0.0
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("batch", 1), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"train.{name}: found {getattr(self, name)}, accepted {least} or more"
                )
        if self.lr is not None and not self.lr > 0:
            raise ConfigError(f"train.lr: found {self.lr}, accepted above 0")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"train.momentum: found {self.momentum}, accepted 0 to below 1")

    def is_checkpoint(self, iteration: int) -> bool:
        """True if the network after so many steps is kept."""
        return iteration % self.checkpoint_every == 0 or iteration == self.iterations

    @property
    def checkpoints(self) -> list[int]:
        """The iterations after which the network is kept."""
        return sorted({*range(0, self.iterations, self.checkpoint_every), self.iterations})


@dataclass(frozen=True)
class TrainSpec(_Descent):
    """How a two-layer network is trained.

    Attributes:
        iterations: steps.
        lr: step size on the mean loss, which is m times the paper's step on the sum of m
            samples; None for :func:`gfs_dist.training.default_lr`.
        batch: samples of a mini-batch (sgd).
        momentum: share of the last step that the next one keeps (sgd).
        checkpoint_every: iterations between checkpoints; the first and the last always are one.
        seed: of the order of samples (sgd).
        method: ``gd``, all samples in every step (equation 5), or ``sgd``, mini-batches.
        precision: dtype of weights, gradients and steps, ``float64`` or ``float32``; None for
            ``float64``.
    """

    iterations: int = 400
    lr: float | None = None
    method: str = "gd"
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"train.method: found {self.method!r}, accepted {', '.join(METHODS)}")
        super().__post_init__()
        if self.method == "gd" and self.momentum:
            raise ConfigError("train.momentum: only train=sgd takes momentum")
        if self.precision not in (None, *DTYPES):
            accepted = ", ".join(DTYPES)
            raise ConfigError(f"train.precision: found {self.precision!r}, accepted {accepted}")

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision or "float64"]


@dataclass(frozen=True)
class DeepSpec(_Descent):
    """Stochastic gradient descent with momentum; by default pytorch-cifar's for 80,000 steps.

    Attributes:
        iterations: steps; the step size falls to zero over them.
        lr: the first step size.
        batch: samples of a mini-batch, of all ranks together.
        momentum: share of the last step that the next one keeps.
        checkpoint_every: iterations between checkpoints; the first and the last always are one.
        seed: of the order of samples, the augmentation and random layers.
        weight_decay: times the weights (all of them) is added to the gradient.
        augment: crop and mirror images at random; None: where they have three colours (mirrored
            digits are no digits). Features are never augmented.
        amp: forward and backward in bfloat16 where that loses little (autocast); weights, their
            gradients and steps stay float32. None: on GPUs.
    """

    iterations: int = 80_000
    lr: float = 0.1
    momentum: float = 0.9
    checkpoint_every: int = 1000
    weight_decay: float = 5e-4
    augment: bool | None = None
    amp: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight_decay >= 0:
            raise ConfigError(f"train.weight_decay: found {self.weight_decay}, accepted 0 or more")

    def lr_at(self, iteration: int) -> float:
        """Step size of step ``iteration + 1``: ``lr (1 + cos(pi iteration / iterations)) / 2``."""
        return self.lr * (1 + math.cos(math.pi * iteration / self.iterations)) / 2


@dataclass
class TrainState:
    """Where training stands; with the network's weights and buffers all that it takes to go on.

    Attributes:
        iteration: steps taken.
        loss: two-layer: mean over all training samples, of the weights after these steps. Deep:
            mean over the samples of all steps since the checkpoint before, each as it was trained
            on (augmented, before its step); None at the start.
        velocity: momentum of each parameter, by name; empty before the first step and without
            momentum.
    """

    iteration: int
    loss: float | None = None
    velocity: dict[str, Tensor] = field(default_factory=dict)


def refuse_divergence(fault: str, iteration: int, lr: float) -> None:
    """Do nothing where there is no fault.

    Raises:
        RunError: names fault, iteration and step size.
    """
    if fault:
        raise RunError(
            f"training diverged: {fault} at iteration {iteration} with "
            f"train.lr={lr:g}; take a smaller train.lr"
        )


def loss_fault(loss: float) -> str:
    """A loss that is not finite, as a fault; else empty."""
    return "" if math.isfinite(loss) else f"the loss is {loss}"


def loss_rise_warning(losses: Mapping[int, float], lr: float) -> str:
    """A warning that the loss of a training has risen; empty if it has not.

    Args:
        losses: of its checkpoints so far, by iteration.
        lr: its step size.
    """
    if not losses:
        return ""
    last, best = max(losses), min(losses, key=losses.__getitem__)
    if losses[last] - losses[best] <= RISE * losses[min(losses)]:
        return ""
    return (
        f"training: the loss has risen from {losses[best]:.5g} (iteration {best:,}) to "
        f"{losses[last]:.5g} (iteration {last:,}); take a smaller train.lr than {lr:.4g}"
    )
