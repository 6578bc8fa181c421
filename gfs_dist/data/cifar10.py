"""CIFAR-10 from its binary version, or from zips of lossless strips."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gfs_dist.data.reading import (
    check_labels,
    needed_path,
    refuse_larger,
    refuse_zip_bomb,
    refusing_damage,
)
from gfs_dist.data.spec import DataSpec, Splits
from gfs_dist.errors import DataError

SIDE = 32
NUM_CLASSES = 10
IMAGE_BYTES = 3 * SIDE * SIDE
FOLDERS = (".", "cifar10", "cifar-10-batches-bin")
PICKLED = ("data_batch_1", "cifar-10-batches-py", "cifar-10-python.tar.gz")
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"


Batch = tuple[Tensor, NDArray[Any]]
"""Images uint8 (m, 3, 32, 32) and labels (m,)."""


def read_cifar10(spec: DataSpec) -> Splits:
    """50,000 training and 10,000 test images, uint8 (m, 3, 32, 32) RGB, in their original order.

    ``data.root`` holds ``data_batch_1`` to ``data_batch_5`` and ``test_batch``, all ``.bin`` (the
    published binary version: a byte of label and 3,072 of pixels an image) or all ``.zip``
    (``labels.npy`` and images side by side in strips of 32 rows, ``00.webp``, ``01.webp``, ...).

    Raises:
        DataError: a file is missing, damaged or pickled; names it.
    """
    folder, suffix = _find(needed_path(spec, "root", "the folder of its six batches"))
    with ThreadPoolExecutor() as pool:
        *batches, test = pool.map(lambda name: _read(folder / (name + suffix)), (*TRAIN, TEST))
    x_train, labels_train = map(torch.cat, zip(*batches, strict=True))
    x_test, labels_test = test
    return Splits(x_train, labels_train, x_test, labels_test, NUM_CLASSES)


def read_bin(path: Path) -> Batch:
    """One batch of the binary version."""
    refuse_larger(path, 2 * path.stat().st_size)  # it is copied once
    content = path.read_bytes()
    if not content or len(content) % (1 + IMAGE_BYTES):
        raise DataError(
            f"{path}: found {len(content):,} bytes, accepted a multiple of {1 + IMAGE_BYTES} "
            "(a label and 3 x 32 x 32 pixels an image)"
        )
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, 1 + IMAGE_BYTES)
    return rows[:, 1:].reshape(-1, 3, SIDE, SIDE), rows[:, 0].numpy()


def read_zip(path: Path) -> Batch:
    """One batch of strips."""
    with zipfile.ZipFile(path) as archive:
        refuse_zip_bomb(path, archive)
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))
        if not names:
            raise DataError(f"{path}: found no strips in it, accepted 00.webp, 01.webp, ...")
        strips = []
        for name in names:
            with Image.open(io.BytesIO(archive.read(name))) as image:
                if image.height != SIDE or image.width % SIDE or not image.width:
                    raise DataError(
                        f"{path}: {name}: found {image.height} x {image.width} pixels, accepted "
                        "32 rows and a multiple of 32 columns"
                    )
                strips.append(torch.from_numpy(np.asarray(image.convert("RGB")).copy()))
        content = io.BytesIO(archive.read("labels.npy"))
        labels = np.lib.format.read_array(content, allow_pickle=False)
    x = torch.cat([s.reshape(SIDE, -1, SIDE, 3).permute(1, 3, 0, 2) for s in strips]).contiguous()
    if labels.dtype != np.uint8 or labels.shape != (len(x),):
        raise DataError(
            f"{path}: labels.npy: found {labels.dtype} {labels.shape}, accepted uint8 ({len(x)},)"
        )
    return x, labels


READERS: dict[str, Callable[[Path], Batch]] = {".bin": read_bin, ".zip": read_zip}


def _find(root: Path) -> tuple[Path, str]:
    """The folder of the batches and how their names end."""
    for folder in (root / name for name in FOLDERS):
        for suffix in READERS:
            if any((folder / (name + suffix)).is_file() for name in (*TRAIN, TEST)):
                return folder, suffix
    for name in PICKLED:
        if (root / name).exists():
            raise DataError(
                f"data.root: found {root / name}: pickled batches are not read, since a pickle "
                "can run code; accepted the binary version (data_batch_1.bin ...) or zips"
            )
    raise DataError(f"data.root: found no data_batch_1.bin or data_batch_1.zip in {root}")


def _read(path: Path) -> tuple[Tensor, Tensor]:
    if not path.is_file():
        raise DataError(f"data.root: found no {path.name} in {path.parent}")
    with refusing_damage(path):
        x, labels = READERS[path.suffix](path)
    return x, check_labels(path, labels, NUM_CLASSES)
