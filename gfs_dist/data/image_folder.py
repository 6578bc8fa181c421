"""Images in folders, one folder a class."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gfs_dist.data.balanced import balanced_rows
from gfs_dist.data.reading import needed_path, refusing_damage
from gfs_dist.data.spec import DataSpec, Splits
from gfs_dist.errors import DataError
from gfs_dist.runtime.resources import free_memory_bytes

MAX_PIXELS = 178_956_970
"""Of a picture as it is decoded or scaled; more are a bomb to Pillow too."""
SUFFIXES = (".jpg", ".jpeg", ".png")
TRAIN = ("train",)
TEST = ("val", "test")
"""Where test images are looked for, the first that exists; ImageNet's ``test`` has no labels."""


class Listing(NamedTuple):
    """The files of one split and the class of each, int64 (m,)."""

    files: list[Path]
    labels: Tensor

    def part(self, rows: Tensor) -> Listing:
        return Listing([self.files[row] for row in rows.tolist()], self.labels[rows])


def read_image_folder(spec: DataSpec) -> Splits:
    """``ROOT/train/CLASS/*.jpg`` and ``ROOT/val/CLASS/*.jpg`` as uint8 (m, 3, size, size) RGB.

    Classes are the folders of ``train`` in the order of their names. Each image is resized so that
    its shorter side has ``data.resize`` pixels (bilinear), then the square of ``data.size`` in its
    middle is kept. Only the images that ``data.samples`` and ``data.test_samples`` ask for are
    decoded.

    Raises:
        DataError: a folder is missing, empty or of an unknown class; an image cannot be read;
            names the path.
    """
    root = needed_path(spec, "root", "the folder of train/ and val/")
    resize = spec.resize if spec.resize is not None else spec.size
    if not 1 <= spec.size <= resize:
        raise DataError(f"data.resize: found {resize}, accepted data.size={spec.size} or more")
    train_folder, test_folder = _find(root, TRAIN), _find(root, TEST)
    classes = _class_names(train_folder)
    train, test = _list(train_folder, classes), _list(test_folder, classes)
    train = train.part(balanced_rows(train.labels, spec.samples, spec.seed))
    test = test.part(balanced_rows(test.labels, spec.test_samples, spec.seed, "data.test_samples"))
    times = 1 if spec.validation is None else 2  # they are there twice while they are divided
    needed = (times * len(train.files) + len(test.files)) * 3 * spec.size**2
    if needed > (free := free_memory_bytes()):
        raise DataError(
            f"data=imagefolder: {len(train.files):,} training and {len(test.files):,} test images "
            f"of {spec.size} pixels take {needed / 2**30:.1f} GiB, found {free / 2**30:.1f} GiB "
            "free; take fewer with data.samples and data.test_samples, or a smaller data.size"
        )
    return Splits(
        read_images(train.files, spec.size, resize),
        train.labels,
        read_images(test.files, spec.size, resize),
        test.labels,
        len(classes),
    )


def read_images(files: list[Path], size: int, resize: int) -> Tensor:
    """Decoded images uint8 (m, 3, size, size), several at a time."""
    x = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def read(row: int) -> None:
        x[row] = read_image(files[row], size, resize)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read, range(len(files))):
            pass
    return x


def read_image(path: Path, size: int, resize: int) -> Tensor:
    """One image uint8 (3, size, size), RGB whatever it was.

    Raises:
        DataError: damaged, no image, or one of more pixels than pictures have.
    """
    if not path.is_file():  # a pipe or device would never end
        raise DataError(f"{path}: found no regular file")
    with refusing_damage(path, "cannot be read as an image"), Image.open(path) as image:
        scale = resize / min(image.size)
        if max(1.0, scale**2) * math.prod(image.size) > MAX_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} pixels, too many once the shorter side has "
                f"{resize}"
            )
        rgb = image.convert("RGB")
    width, height = (max(resize, round(side * scale)) for side in rgb.size)
    if (width, height) != rgb.size:
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(rgb.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _find(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"data.root: found no folder {' or '.join(names)} in {root}")


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in _entries(folder) if entry.is_dir())
    if not names:
        raise DataError(f"{folder}: found no folders in it, accepted one for each class")
    return names


def _list(folder: Path, classes: list[str]) -> Listing:
    """All images of a split, class by class, in the order of their names."""
    for name in _class_names(folder):
        if name not in classes:
            raise DataError(f"{folder / name}: found a class that the training images do not have")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = [path for path in _entries(folder / name) if path.suffix.lower() in SUFFIXES]
        if not own:
            raise DataError(f"{folder / name}: found no images, accepted {', '.join(SUFFIXES)}")
        files += own
        labels += [label] * len(own)
    return Listing(files, torch.tensor(labels))


def _entries(folder: Path) -> list[Path]:
    """Entries of a folder, hidden files aside, sorted."""
    if not folder.is_dir():
        raise DataError(f"{folder}: found no such folder, accepted one for each class")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
