"""The schema of what a command chooses from: data, models, training methods, runtimes.

See :mod:`gfs_dist.config.commands`, which names their options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from gfs_dist.config.constraints import Above, Among, AtLeast, Below

CATALOG = (
    "resnet18",
    "resnet34",
    "resnet50",
    "mobilenet_v2",
    "resnet18_cifar",
    "resnet34_cifar",
    "resnet50_cifar",
    "mobilenet_v2_cifar",
    "resnet20_cifar",
    "resnet56_cifar",
)
"""The deep networks by name; written out because help must not wait for torch."""

ACTIVATIONS = ("tanh", "relu", "sigmoid", "gelu", "softplus", "silu", "identity")
"""Of two-layer networks, for the same reason."""

Seed = Annotated[int, AtLeast(0), Below(2**63)]


@dataclass
class Data:
    """What every dataset has."""

    name: str
    samples: Annotated[int | None, AtLeast(2)]
    test_samples: Annotated[int | None, AtLeast(1)]
    seed: Seed


@dataclass
class Digits(Data):
    """scikit-learn's handwritten digits."""

    name: Annotated[str, Among("digits")]


@dataclass
class Mnist(Data):
    """MNIST's four idx files."""

    name: Annotated[str, Among("mnist")]
    root: str


@dataclass
class Normalised(Data):
    """Images of which each channel is normalised."""

    mean: list[float] | None
    std: list[float] | None


@dataclass
class Cifar10(Normalised):
    """CIFAR-10's six batches."""

    name: Annotated[str, Among("cifar10")]
    root: str


@dataclass
class ImageFolder(Normalised):
    """Images in a folder for each class."""

    name: Annotated[str, Among("imagefolder")]
    root: str
    size: Annotated[int, AtLeast(1)]
    resize: Annotated[int | None, AtLeast(1)]


@dataclass
class Npz(Normalised):
    """Four arrays in one file."""

    name: Annotated[str, Among("npz")]
    path: str
    classes: Annotated[int | None, AtLeast(2)]


@dataclass
class Synthetic(Data):
    """A planted problem whose best subset is known."""

    name: Annotated[str, Among("synthetic")]
    features: Annotated[int, AtLeast(1)]
    planted: Annotated[int, AtLeast(1)]


@dataclass
class Model:
    """What every network has."""

    name: str


@dataclass
class TwoLayer(Model):
    """The mean of ``width`` neurons."""

    name: Annotated[str, Among("two_layer")]
    width: Annotated[int, AtLeast(1)]
    activation: Annotated[str, Among(*ACTIVATIONS)]


@dataclass
class Deep(Model):
    """A deep network by its name."""

    name: Annotated[str, Among(*CATALOG)]


@dataclass
class Custom(Model):
    """A deep network that a function of the user's makes."""

    name: Annotated[str, Among("custom")]
    factory: str
    kwargs: dict[str, Any]


@dataclass
class Stored(Model):
    """The deep network that a checkpoint itself describes."""

    name: Annotated[str, Among("stored")]


@dataclass
class Train:
    """What every training method has."""

    method: str
    iterations: Annotated[int | None, AtLeast(0)]
    lr: Annotated[float | None, Above(0)]
    step_share: Annotated[float | None, Above(0), Below(2)]
    checkpoint_every: Annotated[int | None, AtLeast(1)]


@dataclass
class GradientDescent(Train):
    """Full-batch gradient descent."""

    method: Annotated[str, Among("gd")]


@dataclass
class Sgd(Train):
    """Mini-batches with momentum."""

    method: Annotated[str, Among("sgd")]
    batch: Annotated[int, AtLeast(1)]
    momentum: Annotated[float, AtLeast(0), Below(1)]
    weight_decay: Annotated[float | None, AtLeast(0)]
    augment: bool | None
    amp: bool | None


@dataclass
class Runtime:
    """Where the ranks live."""

    kind: str


@dataclass
class NoRuntime(Runtime):
    """One rank, in the process of the command."""

    kind: Annotated[str, Among("none")]


@dataclass
class LocalRuntime(Runtime):
    """Worker processes of this machine."""

    kind: Annotated[str, Among("local")]
    spares: Annotated[int, AtLeast(0)]
    hang_floor_s: Annotated[float, Above(0)]
    placement_timeout_s: Annotated[float, Above(0)]


@dataclass
class RayRuntime(LocalRuntime):
    """Ray actors."""

    kind: Annotated[str, Among("ray")]
    address: str | None
