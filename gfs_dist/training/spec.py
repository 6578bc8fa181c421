"""How to train, and what it takes to go on."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from gfs_dist.errors import ConfigError

METHODS = ("gd", "sgd")
LR_PER_NEURON = {"tanh": 0.5, "sigmoid": 0.5}
LR_PER_NEURON_UNBOUNDED = 0.1
BCE_FACTOR = 4.0


@dataclass(frozen=True)
class TrainSpec:
    """How a two-layer network is trained.

    Attributes:
        method: ``gd``, all samples in every step (equation 5), or ``sgd``, mini-batches.
        iterations: steps.
        lr: step size on the mean loss, which is m times the paper's step on the sum of m
            samples; None for :func:`default_lr`.
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


def default_lr(width: int, activation: str, loss: str) -> float:
    """A step size that trains: 0.5 a neuron for tanh and sigmoid, 0.1 for unbounded activations.

    Four times that under BCE, whose curvature in the output is at most 1/4 of the squared loss's.

    The output is a mean over N neurons, so a neuron's gradient has a factor 1/N and the step has
    to grow with N. Measured on digits, width 1,000, Gaussian initialisation: tanh trains from 0.1
    to 2 a neuron, relu, gelu and softplus lose all they learned from 0.5 on.
    """
    per_neuron = LR_PER_NEURON.get(activation, LR_PER_NEURON_UNBOUNDED)
    return per_neuron * width * (BCE_FACTOR if loss == "bce" else 1.0)
