"""How to train, and what it takes to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gfs_dist.errors import ConfigError

METHODS = ("gd", "sgd")
RISE = 0.05
"""Of the first loss: by less, noise of mini-batches moves the loss of one that still falls."""


@dataclass(frozen=True)
class TrainSpec:
    """How a two-layer network is trained.

    Attributes:
        method: ``gd``, all samples in every step (equation 5), or ``sgd``, mini-batches.
        iterations: steps.
        lr: step size on the mean loss, which is m times the paper's step on the sum of m
            samples; None for :func:`gfs_dist.training.default_lr`.
        batch: samples of a mini-batch (sgd).
        momentum: share of the last step that the next one keeps (sgd).
        checkpoint_every: iterations between checkpoints; the first and the last always are one.
        seed: of the order of samples (sgd).
    """

    method: str = "gd"
    iterations: int = 400
    lr: float | None = None
    batch: int = 128
    momentum: float = 0.0
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"train.method: found {self.method!r}, accepted {', '.join(METHODS)}")
        for name, least in (("iterations", 0), ("batch", 1), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"train.{name}: found {getattr(self, name)}, accepted {least} or more"
                )
        if self.lr is not None and not self.lr > 0:
            raise ConfigError(f"train.lr: found {self.lr}, accepted above 0")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"train.momentum: found {self.momentum}, accepted 0 to below 1")
        if self.method == "gd" and self.momentum:
            raise ConfigError("train.momentum: only train=sgd takes momentum")


@dataclass
class TrainState:
    """Where training stands; with the network's weights all that it takes to go on.

    Attributes:
        iteration: steps taken.
        loss: mean loss over all training samples, of the weights after these steps.
        velocity: last step's momentum by parameter name; empty without momentum.
    """

    iteration: int
    loss: float
    velocity: dict[str, Tensor] = field(default_factory=dict)


def risen(losses: Mapping[int, float], lr: float) -> str:
    """That the loss of a training has risen, as a sentence; empty if it has not.

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
