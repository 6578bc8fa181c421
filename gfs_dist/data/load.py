"""Loads a dataset: as vectors for two-layer networks, as images or text for deep ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.data.balanced import balanced_splits, divided
from gfs_dist.data.cifar10 import read_cifar10
from gfs_dist.data.image_folder import read_image_folder
from gfs_dist.data.mnist import read_mnist
from gfs_dist.data.npz import read_npz
from gfs_dist.data.spec import Dataset, DataSpec, Splits, check_classes
from gfs_dist.data.synthetic import load_synthetic
from gfs_dist.data.text import Texts, load_texts
from gfs_dist.errors import DataError
from gfs_dist.files import fingerprint

DIGITS_TEST_EVERY = 5
MAX_DIGITS_PIXEL = 16.0


def read_digits(_spec: DataSpec) -> Splits:
    """scikit-learn's digits: 1,437 training and 360 test images, float64 (m, 1, 8, 8) in [0, 1].

    The test split is every fifth row from row 0.
    """
    from sklearn import datasets

    images, digits = datasets.load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float64).reshape(-1, 1, 8, 8) / MAX_DIGITS_PIXEL
    labels = torch.tensor(digits, dtype=torch.int64)
    is_test = torch.arange(len(x)) % DIGITS_TEST_EVERY == 0
    return Splits(x[~is_test], labels[~is_test], x[is_test], labels[is_test], num_classes=10)


READERS: dict[str, Callable[[DataSpec], Splits]] = {
    "cifar10": read_cifar10,
    "digits": read_digits,
    "imagefolder": read_image_folder,
    "mnist": read_mnist,
    "npz": read_npz,
}
"""How the splits of each dataset are found, whole (image folders: those that are asked for)."""

TWO_LAYER = ("digits", "mnist", "synthetic")
MAX_PIXEL = 255.0


def load(
    spec: DataSpec, *, width: int = 1000, activation: Callable[[Tensor], Tensor] = torch.tanh
) -> Dataset:
    """Load the dataset of a specification, as vectors in [0, 1].

    Args:
        spec: which data.
        width: neurons of the planted network (synthetic only).
        activation: of the planted network (synthetic only).

    Raises:
        DataError: unknown, missing, damaged, empty, of one class, or fewer than asked for.
    """
    if spec.name not in TWO_LAYER:
        raise DataError(
            f"data: found {spec.name!r}, accepted {', '.join(TWO_LAYER)} for two-layer networks"
        )
    if spec.name == "synthetic":
        dataset = load_synthetic(spec, width, activation)
    else:
        found = balanced_splits(READERS[spec.name](spec), spec)
        x_train, x_test = (
            x.flatten(1).double() / (MAX_PIXEL if x.dtype == torch.uint8 else 1.0)
            for x in (found.x_train, found.x_test)
        )
        dataset = Dataset(x_train, found.labels_train, x_test, found.labels_test)
    dataset = divided(dataset, spec)
    check_classes(dataset.labels_train, spec.name)
    check_classes(dataset.pruned_on[1], spec.name, "data.prune_samples")
    return dataset


@dataclass(frozen=True)
class Images(Splits):
    """Inputs, uint8 or float32, and labels of both splits, and how inputs are normalised.

    Attributes:
        mean, std: one number a channel (or feature), or one for all; of inputs in [0, 1].
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over inputs, labels and normalisation; changes whenever one of them does."""
        normalisation = torch.tensor([self.mean, self.std], dtype=torch.float64)
        return fingerprint(*self.tensors, normalisation)

    def inputs(self, x: Tensor) -> Tensor:
        """Inputs of a network for rows of ``x_train`` or ``x_test``.

        Returns:
            float32 of the same shape, on the same device: ``(x / 255 - mean) / std`` for uint8,
            ``(x - mean) / std`` for floating point. Numbers of tokens as they are.
        """
        if x.dtype == torch.int64:
            return x
        scaled = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        shape = (-1, *(1 for _ in x.shape[2:]))
        mean, std = (
            torch.tensor(values, device=x.device).reshape(shape) for values in (self.mean, self.std)
        )
        return (scaled - mean) / std

    @property
    def input_words(self) -> str:
        if self.x_train.dtype == torch.int64:
            return f"int64 (N, {self.x_train.shape[1]}), numbers of tokens"
        mean, std = (", ".join(f"{x:.4g}" for x in values) for values in (self.mean, self.std))
        scaled = ", in [0, 1]" if self.x_train.dtype == torch.uint8 else ""
        shape = ", ".join(str(size) for size in self.x_train.shape[1:])
        return f"float32 (N, {shape}){scaled}, less {mean}, over {std}"


DeepData = Images | Texts
"""What networks of several layers are measured and pruned on."""


def load_samples(spec: DataSpec) -> DeepData:
    """Load the dataset of a specification, as networks of several layers take it.

    Raises:
        DataError: see :func:`load_images` and :func:`load_texts`.
    """
    return load_texts(spec) if spec.name == "text" else load_images(spec)


def load_images(spec: DataSpec) -> Images:
    """Load the dataset of a specification, as images.

    Raises:
        DataError: unknown, missing, damaged, empty, of one class, fewer than asked for, or a
            normalisation that does not fit; names key or file.
    """
    if spec.name not in READERS:
        raise DataError(
            f"data: found {spec.name!r}, accepted {', '.join(READERS)} for networks on images"
        )
    found = balanced_splits(READERS[spec.name](spec), spec)
    if len(found.x_test) == 0 or len(torch.unique(found.labels_train)) < 2:
        raise DataError(
            f"data={spec.name}: found {len(torch.unique(found.labels_train))} classes in "
            f"{len(found.x_train)} training images and {len(found.x_test)} test images; accepted "
            "two classes or more and one test image or more"
        )
    x_train, x_test = (
        x if x.dtype in (torch.uint8, torch.int64) else x.float()
        for x in (found.x_train, found.x_test)
    )
    channels = x_train.shape[1]
    images = Images(
        x_train,
        found.labels_train,
        x_test,
        found.labels_test,
        found.num_classes,
        mean=_per_channel("data.mean", spec.mean, Images.mean, channels),
        std=_per_channel("data.std", spec.std, Images.std, channels),
    )
    return divided(images, spec)


def _per_channel(
    key: str, values: tuple[float, ...] | None, default: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    """Checked numbers for each channel; ``default`` where none are given."""
    if values is None:
        return default
    if len(values) not in (1, channels):
        raise DataError(
            f"{key}: found {len(values)} numbers for {channels} channels, accepted 1 or {channels}"
        )
    for value in values:
        if not math.isfinite(value) or (key == "data.std" and value <= 0):
            raise DataError(f"{key}: found {value}, accepted finite numbers, std above 0")
    return tuple(values)
