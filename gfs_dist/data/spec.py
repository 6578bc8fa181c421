"""Datasets: the specification, the data, and the target of an objective."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor

from gfs_dist.errors import DataError
from gfs_dist.files import fingerprint

FIRST_POSITIVE_DIGIT = 5
TARGETS = ("squared", "bce")


@dataclass(frozen=True)
class DataSpec:
    """Which data.

    Attributes:
        name: ``digits``, ``mnist``, ``cifar10``, ``imagefolder``, ``npz``, ``text``, ``synthetic``.
        root: folder of the files (mnist, cifar10, imagefolder).
        samples: training samples, balanced over classes; None for all (synthetic: 2,000).
        test_samples: the same of the test split; None for all (synthetic: 500).
        prune_samples: training samples to prune on, balanced over classes; None for all.
        validation: share of each class of the training samples that is held out of training and
            pruning, between 0 and 1; None for none.
        seed: chooses the sub-dataset, or makes the synthetic problem.
        features: inputs (synthetic).
        planted: neurons whose mean is the target (synthetic).
        path: the file (npz, text).
        classes: how many (npz); None for the highest training label plus 1.
        size, resize: side of the images, and of the shorter side before the square in the middle
            is cut out, pixels (imagefolder); None: ``resize`` is ``size``.
        mean, std: per channel, of inputs in [0, 1]; None for 0 and 1.
        sequence: tokens of a row, at most (text).
        tokenizer: folder of the model whose tokenizer is taken (text).
        rows: ``packed`` or ``lines`` (text).
        columns: of a file with tabs, from 1; None for those that hold sentences (text).
    """

    name: str = "digits"
    root: str | None = None
    samples: int | None = None
    test_samples: int | None = None
    prune_samples: int | None = None
    validation: float | None = None
    seed: int = 0
    features: int = 64
    planted: int = 10
    path: str | None = None
    classes: int | None = None
    size: int = 224
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sequence: int = 512
    tokenizer: str | None = None
    rows: str = "packed"
    columns: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Labelled:
    """Inputs and labels of both splits.

    Attributes:
        x_validation, labels_validation: rows that were taken out of the training split; None
            where none were asked for.
        prune_rows: sorted rows of the training split to prune on; None for all.
    """

    x_train: Tensor
    labels_train: Tensor
    x_test: Tensor
    labels_test: Tensor
    _: KW_ONLY
    x_validation: Tensor | None = None
    labels_validation: Tensor | None = None
    prune_rows: Tensor | None = None

    @property
    def pruned_on(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the training rows to prune on."""
        rows = slice(None) if self.prune_rows is None else self.prune_rows
        return self.x_train[rows], self.labels_train[rows]

    @property
    def validation(self) -> tuple[Tensor, Tensor] | None:
        """Inputs and labels that were held out."""
        if self.x_validation is None or self.labels_validation is None:
            return None
        return self.x_validation, self.labels_validation

    @property
    def tensors(self) -> list[Tensor]:
        """All there are, for fingerprints."""
        both = [self.x_train, self.labels_train, self.x_test, self.labels_test]
        more = (self.x_validation, self.labels_validation, self.prune_rows)
        return both + [tensor for tensor in more if tensor is not None]


@dataclass(frozen=True)
class Splits(Labelled):
    """A classification dataset, as a reader finds it.

    Attributes:
        x_train, x_test: uint8, or float32 mostly in [0, 1]; (m, C, H, W) or (m, features). Or
            int64 (m, tokens), numbers of tokens.
        labels_train, labels_test: int64 (m,), from 0.
        num_classes: one more than the highest label there can be.
    """

    num_classes: int

    def inputs(self, x: Tensor) -> Any:
        """What a network is called with for rows of ``x_train`` or ``x_test``.

        Returns:
            Of the same number of samples, on the same device: a tensor, or a dict of tensors that
            are keyword arguments.
        """
        raise NotImplementedError

    @property
    def shape(self) -> str:
        """Of a sample, in words."""
        return " x ".join(str(size) for size in self.x_train.shape[1:])

    @property
    def input_words(self) -> str:
        """What :meth:`inputs` gives, for the card of a network."""
        raise NotImplementedError


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
class Dataset(Labelled):
    """Vectors for two-layer networks.

    Attributes:
        x_train, x_test: float64 (m, d), in [0, 1] (synthetic: Gaussian).
        labels_train, labels_test: int64 digits (m,); synthetic: float64 regression targets.
        planted: the known answer (synthetic).
    """

    planted: PlantedNetwork | None = None

    @property
    def features(self) -> int:
        return self.x_train.shape[1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all tensors; changes whenever the data does."""
        return fingerprint(*self.tensors)


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


def check_classes(labels: Tensor, name: str, key: str = "data.samples") -> None:
    """Refuse data that is empty or has one class only (regression: one value).

    Raises:
        DataError: names the dataset, the class and the key that asks for more.
    """
    if len(labels) == 0:
        raise DataError(f"data={name}: no samples")
    sides = labels if labels.is_floating_point() else target(labels, "bce")
    if bool((sides == sides[0]).all()):
        raise DataError(
            f"data={name}: all {len(labels)} samples are of one class (the first: "
            f"{labels[0].item()}), at least two are needed; take more with {key}"
        )
