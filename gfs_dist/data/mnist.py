"""MNIST from its four idx files, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from gfs_dist.data.reading import check_labels, needed_path, refusing_damage
from gfs_dist.data.spec import DataSpec, Splits
from gfs_dist.errors import DataError

IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
SIDE = 28
NUM_CLASSES = 10
MAX_COUNT = 10**6
FOLDERS = (".", "mnist", "MNIST/raw")


def read_mnist(spec: DataSpec) -> Splits:
    """60,000 training and 10,000 test images, uint8 (m, 1, 28, 28).

    Raises:
        DataError: a file is missing, truncated, no idx file, or does not fit its partner.
    """
    root = needed_path(spec, "root", "the folder of its four idx files")
    return Splits(*_split(root, "train"), *_split(root, "t10k"), NUM_CLASSES)


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
    return images.unsqueeze(1), check_labels(labels_file, labels.numpy(), NUM_CLASSES)


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
        magic: the first four bytes; its last byte is the number of axes.

    Returns:
        uint8, of the shape the header names.

    Raises:
        DataError: cannot be read, another magic, an absurd count, too few or too many bytes.
    """
    axes = magic & 0xFF
    opened = gzip.open if path.suffix == ".gz" else open
    with refusing_damage(path), opened(path, "rb") as file:
        header = file.read(4 * (1 + axes))
        if len(header) < 4 * (1 + axes):
            raise DataError(f"{path}: truncated, its header has {len(header)} bytes")
        found, *shape = struct.unpack(f">{1 + axes}I", header)
        if found != magic:
            raise DataError(f"{path}: not the idx file it should be: magic {found}, not {magic}")
        if not 0 < shape[0] <= MAX_COUNT or any(not 0 < side <= SIDE for side in shape[1:]):
            raise DataError(f"{path}: found counts {shape} in its header")
        # One byte more than there should be, so that a file that is too long shows as well.
        content = bytearray(file.read(math.prod(shape) + 1))
    if len(content) != math.prod(shape):
        less_or_more = "less" if len(content) < math.prod(shape) else "more"
        raise DataError(f"{path}: holds {less_or_more} than the {shape[0]} items of its header")
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)
