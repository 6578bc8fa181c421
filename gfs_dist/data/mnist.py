"""MNIST from its four idx files, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from gfs_dist.data.balanced import balanced_splits
from gfs_dist.data.spec import Dataset, DataSpec, Splits
from gfs_dist.errors import DataError

IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
SIDE = 28
NUM_CLASSES = 10
MAX_COUNT = 10**6
MAX_PIXEL = 255.0
FOLDERS = (".", "mnist", "MNIST/raw")


def load_mnist(spec: DataSpec) -> Dataset:
    """60,000 training and 10,000 test images of 784 pixels, or a balanced part of the former.

    Raises:
        DataError: a file is missing, truncated, no idx file, or does not fit its partner.
    """
    x_train, labels_train, x_test, labels_test, _ = read_mnist(spec)
    return Dataset(
        x_train.flatten(1).double() / MAX_PIXEL,
        labels_train,
        x_test.flatten(1).double() / MAX_PIXEL,
        labels_test,
    )


def read_mnist(spec: DataSpec) -> Splits:
    """The same as images, uint8 (m, 1, 28, 28)."""
    if spec.root is None:
        raise DataError("data.root: data=mnist needs the folder of its four idx files")
    x_train, labels_train = _split(Path(spec.root), "train")
    x_test, labels_test = _split(Path(spec.root), "t10k")
    found = Splits(x_train, labels_train, x_test, labels_test, NUM_CLASSES)
    return balanced_splits(found, spec)


def _split(root: Path, name: str) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (m, 1, 28, 28) and labels int64 (m,) of one split."""
    images_file = _find(root, f"{name}-images-idx3-ubyte")
    labels_file = _find(root, f"{name}-labels-idx1-ubyte")
    images = read_idx(images_file, IMAGES_MAGIC)
    labels = read_idx(labels_file, LABELS_MAGIC)
    if images.shape[1:] != (SIDE, SIDE):
        found = tuple(images.shape[1:])
        raise DataError(f"{images_file}: found images of {found}, accepted {(SIDE, SIDE)}")
    if len(images) != len(labels):
        raise DataError(f"{labels_file}: found {len(labels)} labels for {len(images)} images")
    if len(labels) and int(labels.max()) >= NUM_CLASSES:
        raise DataError(f"{labels_file}: found label {int(labels.max())}, accepted 0 to 9")
    return images.unsqueeze(1), labels.long()


def _find(root: Path, name: str) -> Path:
    tried = [root / folder / (name + end) for folder in FOLDERS for end in ("", ".gz")]
    for path in tried:
        if path.is_file():
            return path
    raise DataError(f"data.root: found no {name} or {name}.gz in {root}")


def read_idx(path: Path, magic: int) -> Tensor:
    """Read one idx file of bytes.

    Args:
        path: plain, or gzipped if it ends in ``.gz``.
        magic: what the first four bytes must say; its last byte is the number of axes.

    Returns:
        uint8, of the shape the header names.

    Raises:
        DataError: cannot be read, another magic, an absurd count, too few or too many bytes.
    """
    axes = magic & 0xFF
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 * (1 + axes))
            if len(header) < 4 * (1 + axes):
                raise DataError(f"{path}: truncated, its header has {len(header)} bytes")
            found, *shape = struct.unpack(f">{1 + axes}I", header)
            if found != magic:
                raise DataError(
                    f"{path}: not the idx file it should be: magic {found}, not {magic}"
                )
            if not 0 < shape[0] <= MAX_COUNT or any(not 0 < side <= SIDE for side in shape[1:]):
                raise DataError(f"{path}: found counts {shape} in its header")
            # One byte more than there should be, so that a file that is too long shows as well.
            content = bytearray(file.read(math.prod(shape) + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(content) != math.prod(shape):
        less_or_more = "less" if len(content) < math.prod(shape) else "more"
        raise DataError(f"{path}: holds {less_or_more} than the {shape[0]} items of its header")
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)
