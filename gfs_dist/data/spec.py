"""Datasets: the specification, the data, and the target of an objective."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gfs_dist.errors import DataError
from gfs_dist.files import fingerprint

FIRST_POSITIVE_DIGIT = 5
TARGETS = ("squared", "bce")


@dataclass(frozen=True)
class DataSpec:
    """Which data.

    Attributes:
        name: ``digits``, ``mnist``, ``cifar10``, ``imagefolder``, ``npz`` or ``synthetic``.
        root: folder of the files (mnist, cifar10, imagefolder).
        samples: training samples, balanced over classes; None for all (synthetic: 2,000).
        test_samples: the same of the test split; None for all (synthetic: 500).
        seed: chooses the sub-dataset, or makes the synthetic problem.
        features: inputs (synthetic).
        planted: neurons whose mean is the target (synthetic).
        path: the file (npz).
        classes: how many (npz); None for the highest training label plus 1.
        size, resize: side of the images, and of the shorter side before the square in the middle
            is cut out, pixels (imagefolder); None: ``resize`` is ``size``.
        mean, std: per channel, of inputs in [0, 1]; None for 0 and 1.
    """

    name: str = "digits"
    root: str | None = None
    samples: int | None = None
    test_samples: int | None = None
    seed: int = 0
    features: int = 64
    planted: int = 10
    path: str | None = None
    classes: int | None = None
    size: int = 224
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Splits:
    """Both splits of a classification dataset, as a reader finds them.

    Attributes:
        x_train, x_test: uint8, or float32 mostly in [0, 1]; (m, C, H, W) or (m, features).
        labels_train, labels_test: int64 (m,), from 0.
        num_classes: one more than the highest label there can be.
    """

    x_train: Tensor
    labels_train: Tensor
    x_test: Tensor
    labels_test: Tensor
    num_classes: int


@dataclass(frozen=True)
class PlantedNetwork:
    """A two-layer network with a known best subset.

    Attributes:
        hidden: float64 (N, d), the ``a_i``.
        output: float64 (N,), the ``b_i``.
        support: sorted neurons whose mean contribution is the target.
    """

    hidden: Tensor
    output: Tensor
    support: list[int]


@dataclass(frozen=True)
class Dataset:
    """Inputs and labels of both splits.

    Attributes:
        x_train, x_test: float64 (m, d), in [0, 1] (synthetic: Gaussian).
        labels_train, labels_test: int64 digits (m,); synthetic: float64 regression targets.
        planted: the known answer (synthetic).
    """

    x_train: Tensor
    labels_train: Tensor
    x_test: Tensor
    labels_test: Tensor
    planted: PlantedNetwork | None = None

    @property
    def features(self) -> int:
        return self.x_train.shape[1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all four tensors; changes whenever the data does."""
        return fingerprint(self.x_train, self.labels_train, self.x_test, self.labels_test)


def target(labels: Tensor, objective: str) -> Tensor:
    """The target of the network's output, float64 (m,).

    Digits of 5 or more are the positive class: +1/-1 (``squared``), 1/0 (``bce``). Regression
    targets stay as they are (``squared``), or become 1 where positive (``bce``).

    Raises:
        DataError: unknown objective.
    """
    if objective not in TARGETS:
        raise DataError(f"objective: found {objective!r}, accepted {', '.join(TARGETS)}")
    if labels.is_floating_point():
        return labels.double() if objective == "squared" else (labels > 0).double()
    positive = (labels >= FIRST_POSITIVE_DIGIT).double()
    return 2 * positive - 1 if objective == "squared" else positive


def check_classes(labels: Tensor, name: str) -> None:
    """Refuse data that is empty or has one class only (regression: one value).

    Raises:
        DataError: names the dataset and the class.
    """
    if len(labels) == 0:
        raise DataError(f"data={name}: no samples")
    sides = labels if labels.is_floating_point() else target(labels, "bce")
    if bool((sides == sides[0]).all()):
        raise DataError(
            f"data={name}: all {len(labels)} samples are of one class (the first: "
            f"{labels[0].item()}), at least two are needed; take more with data.samples"
        )
