"""Classification datasets as deep networks take them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.data.cifar10 import read_cifar10
from gfs_dist.data.digits import read_digits
from gfs_dist.data.image_folder import read_image_folder
from gfs_dist.data.mnist import read_mnist
from gfs_dist.data.npz import read_npz
from gfs_dist.data.spec import DataSpec, Splits
from gfs_dist.errors import DataError
from gfs_dist.files import fingerprint

READERS: dict[str, Callable[[DataSpec], Splits]] = {
    "cifar10": read_cifar10,
    "digits": read_digits,
    "imagefolder": read_image_folder,
    "mnist": read_mnist,
    "npz": read_npz,
}


@dataclass(frozen=True)
class Images:
    """Inputs and labels of both splits, and how inputs are normalised.

    Attributes:
        x_train, x_test: uint8 or float32, (m, C, H, W) or (m, features).
        labels_train, labels_test: int64 (m,), from 0 to ``num_classes - 1``.
        mean, std: one number a channel (or feature), or one for all; of inputs in [0, 1].
        num_classes: outputs that a network needs.
    """

    x_train: Tensor
    labels_train: Tensor
    x_test: Tensor
    labels_test: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over inputs, labels and normalisation; changes whenever one of them does."""
        normalisation = torch.tensor([self.mean, self.std], dtype=torch.float64)
        return fingerprint(
            self.x_train, self.labels_train, self.x_test, self.labels_test, normalisation
        )

    def inputs(self, x: Tensor) -> Tensor:
        """What a network is given for rows of ``x_train`` or ``x_test``.

        Returns:
            float32 of the same shape, on the same device: ``(x / 255 - mean) / std`` for uint8,
            ``(x - mean) / std`` for floating point.
        """
        scaled = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        shape = (-1, *(1 for _ in x.shape[2:]))
        mean, std = (
            torch.tensor(values, device=x.device).reshape(shape) for values in (self.mean, self.std)
        )
        return (scaled - mean) / std


def load_images(spec: DataSpec) -> Images:
    """Load what ``spec`` names, as images.

    Raises:
        DataError: unknown, missing, damaged, empty, of one class, fewer than asked for, or a
            normalisation that does not fit; names key or file.
    """
    if spec.name not in READERS:
        raise DataError(
            f"data: found {spec.name!r}, accepted {', '.join(READERS)} for networks on images"
        )
    found = READERS[spec.name](spec)
    if len(found.x_test) == 0 or len(torch.unique(found.labels_train)) < 2:
        raise DataError(
            f"data={spec.name}: found {len(torch.unique(found.labels_train))} classes in "
            f"{len(found.x_train)} training images and {len(found.x_test)} test images; accepted "
            "two classes or more and one test image or more"
        )
    channels = found.x_train.shape[1]
    return Images(
        _plain(found.x_train),
        found.labels_train,
        _plain(found.x_test),
        found.labels_test,
        _per_channel("data.mean", spec.mean, 0.0, channels),
        _per_channel("data.std", spec.std, 1.0, channels),
        found.num_classes,
    )


def _plain(x: Tensor) -> Tensor:
    return x if x.dtype == torch.uint8 else x.float()


def _per_channel(
    key: str, values: tuple[float, ...] | None, default: float, channels: int
) -> tuple[float, ...]:
    """Checked numbers for each channel; ``default`` for all where none are given."""
    if values is None:
        return (default,)
    if len(values) not in (1, channels):
        raise DataError(
            f"{key}: found {len(values)} numbers for {channels} channels, accepted 1 or {channels}"
        )
    for value in values:
        if not math.isfinite(value) or (key == "data.std" and value <= 0):
            raise DataError(f"{key}: found {value}, accepted finite numbers, std above 0")
    return tuple(values)
