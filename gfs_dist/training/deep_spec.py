"""How a deep network is trained, and what it takes to go on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from gfs_dist.errors import ConfigError


class Samples(Protocol):
    """Training data: ``gfs_dist.data.Images``, or anything alike."""

    @property
    def x_train(self) -> Tensor: ...

    @property
    def labels_train(self) -> Tensor: ...

    def inputs(self, x: Tensor) -> Tensor:
        """What the network is given for rows of ``x_train``: float32, normalised."""
        ...


@dataclass(frozen=True)
class DeepSpec:
    """Stochastic gradient descent with momentum; by default pytorch-cifar's for 80,000 steps.

    Attributes:
        iterations: steps; the step size falls to zero over them.
        lr: the first step size.
        batch: samples of a mini-batch, of all ranks together.
        momentum: share of the last step that the next one keeps.
        weight_decay: times the weights (all of them) is added to the gradient.
        augment: crop and mirror images at random; None: where they have three colours (mirrored
            digits are no digits). Features are never augmented.
        amp: forward and backward in bfloat16 where that loses little (autocast); weights, their
            gradients and steps stay float32. None: on GPUs.
        checkpoint_every: iterations between checkpoints; the first and the last always are one.
        seed: of the order of samples, the augmentation and random layers.
    """

    iterations: int = 80_000
    lr: float = 0.1
    batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool | None = None
    amp: bool | None = None
    checkpoint_every: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("batch", 1), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"train.{name}: found {getattr(self, name)}, accepted {least} or more"
                )
        if not self.lr > 0:
            raise ConfigError(f"train.lr: found {self.lr}, accepted above 0")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"train.momentum: found {self.momentum}, accepted 0 to below 1")
        if not self.weight_decay >= 0:
            raise ConfigError(f"train.weight_decay: found {self.weight_decay}, accepted 0 or more")

    def is_checkpoint(self, iteration: int) -> bool:
        """True if the network after so many steps is kept."""
        return iteration % self.checkpoint_every == 0 or iteration == self.iterations

    def lr_at(self, iteration: int) -> float:
        """Step size of step ``iteration + 1``: ``lr (1 + cos(pi iteration / iterations)) / 2``."""
        return self.lr * (1 + math.cos(math.pi * iteration / self.iterations)) / 2


@dataclass
class DeepState:
    """Where training stands; with the network's weights and buffers all that it takes to go on.

    Attributes:
        iteration: steps taken.
        loss: mean over the samples of all steps since the checkpoint before, each as it was
            trained on (augmented, before its step); None at the start.
        velocity: momentum of each parameter, by name; empty before the first step.
    """

    iteration: int
    loss: float | None = None
    velocity: dict[str, Tensor] = field(default_factory=dict)
