"""A dataset of the user's own: four arrays in one ``.npz`` file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import torch
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

NAMES = ("x_train", "y_train", "x_test", "y_test")
MAX_CLASSES = 2**20
MAX_TOKENS = 2**31
MAGIC = np.lib.format.MAGIC_PREFIX


def read_npz(spec: DataSpec) -> Splits:
    """The arrays of ``data.path``; nothing in it is ever unpickled.

    ``x_train``, ``x_test``: uint8 or floating, N x C x H x W or N x features; floating ones are
    used as they are, in float32. Other integers, N x tokens, are numbers of tokens, from 0.
    ``y_train``, ``y_test``: whole numbers from 0.

    Raises:
        DataError: missing or damaged file, missing array, wrong dtype or shape, arrays that do
            not fit each other, NaN, a label out of range; names file and array.
    """
    path = needed_path(spec, "path", "the .npz file")
    arrays = _read(path)
    x_train, x_test = _inputs(path, arrays, "x_train"), _inputs(path, arrays, "x_test")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{path}: x_test: found {tuple(x_test.shape)}, accepted (N, "
            f"{', '.join(map(str, x_train.shape[1:]))}) as in x_train"
        )
    if (x_train.dtype == torch.int64) != (x_test.dtype == torch.int64):
        raise DataError(f"{path}: x_test: found {x_test.dtype}, accepted {x_train.dtype}")
    labels_train = check_labels(f"{path}: y_train", arrays["y_train"], spec.classes or MAX_CLASSES)
    classes = spec.classes or int(labels_train.max()) + 1
    labels_test = check_labels(f"{path}: y_test", arrays["y_test"], classes)
    return Splits(x_train, labels_train, x_test, labels_test, classes)


class Header(NamedTuple):
    """Shape and dtype of an array, from its header."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def checked_bytes(self) -> int:
        """While it is checked: floating arrays are there twice, and once as bits."""
        return self.nbytes + (5 * math.prod(self.shape) if self.dtype.kind == "f" else 0)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The four arrays; their numbers are read once all that is known without them is right."""
    if not path.is_file():
        raise DataError(f"data.path: found no file {path}")
    arrays: dict[str, np.ndarray] = {}
    # Opened here because numpy leaves a file open that it refuses.
    with refusing_damage(path), path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            raise DataError(f"{path}: found one array, accepted an .npz of {', '.join(NAMES)}")
        file.seek(0)
        archive = np.load(file, allow_pickle=False)
        for name in NAMES:
            if name not in archive:
                found = ", ".join(sorted(archive)[:6]) or "nothing"
                raise DataError(f"{path}: has no {name}; found {found}")
        refuse_zip_bomb(path, archive.zip)
        headers = {}
        for name in NAMES:
            with refusing_damage(f"{path}: {name}"):
                headers[name] = _header(path, archive.zip, name)
        _check(path, headers)
        refuse_larger(path, sum(header.checked_bytes for header in headers.values()))
        for name in NAMES:
            with refusing_damage(f"{path}: {name}"):
                arrays[name] = archive[name]
    return arrays


def _header(path: Path, archive: ZipFile, name: str) -> Header:
    member = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
    with archive.open(member) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{path}: {name}: found no array")
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        header, held = Header(shape, dtype), member.file_size - file.tell()
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: they are pickles, which can run code")
    if header.nbytes != held:
        raise DataError(
            f"{path}: {name}: found {held:,} bytes, accepted {header.nbytes:,} for its shape "
            f"{shape} of {dtype}"
        )
    return header


def _check(path: Path, headers: dict[str, Header]) -> None:
    for split in ("train", "test"):
        shape, dtype = headers[f"x_{split}"]
        if len(shape) not in (2, 4) or 0 in shape:
            raise DataError(
                f"{path}: x_{split}: found shape {shape}, accepted (N, C, H, W) or (N, features)"
            )
        if len(shape) == 4 and shape[3] in (1, 3) and shape[1] == shape[2] > 4:
            raise DataError(
                f"{path}: x_{split}: found shape {shape}, channels last; accepted (N, C, H, W)"
            )
        if dtype.kind not in "fiu" or (dtype.kind in "iu" and dtype != np.uint8 and len(shape) > 2):
            raise DataError(
                f"{path}: x_{split}: found {dtype}, accepted uint8 or floating point, or other "
                "integers (N, tokens)"
            )
        count = shape[0]
        shape, dtype = headers[f"y_{split}"]
        if dtype.kind not in "iu" or shape != (count,):
            raise DataError(
                f"{path}: y_{split}: found {dtype} {shape}, accepted whole numbers ({count},), one "
                f"for each of x_{split}; networks without classes are pruned in Python "
                "(gfs_dist.prune)"
            )


def _inputs(path: Path, arrays: dict[str, np.ndarray], name: str) -> Tensor:
    array = arrays[name]
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if array.dtype.kind in "iu":
        return check_labels(f"{path}: {name}", array, MAX_TOKENS, "token")
    with np.errstate(over="ignore"):
        x = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    wrong = ~torch.isfinite(x)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        raise DataError(
            f"{path}: {name}: found {array[index]} at index {index}, accepted numbers that "
            "float32 can hold"
        )
    return x
