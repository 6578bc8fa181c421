"""A dataset of the user's own: four arrays in one ``.npz`` file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gfs_dist.data.archive import first_line, refuse_bomb
from gfs_dist.data.balanced import balanced_part
from gfs_dist.data.spec import DataSpec, Splits
from gfs_dist.errors import DataError

NAMES = ("x_train", "y_train", "x_test", "y_test")
MAX_CLASSES = 2**20


def read_npz(spec: DataSpec) -> Splits:
    """What ``data.path`` holds; nothing in it is ever unpickled.

    ``x_train``, ``x_test``: uint8 or floating, N x C x H x W or N x features; floating ones are
    used as they are, in float32. ``y_train``, ``y_test``: whole numbers from 0.

    Raises:
        DataError: missing or damaged file, missing array, wrong dtype or shape, arrays that do
            not fit each other, NaN, a label out of range; names file and array.
    """
    if spec.path is None:
        raise DataError("data.path: data=npz needs the .npz file")
    path = Path(spec.path)
    arrays = _read(path)
    x_train, x_test = _inputs(path, arrays, "x_train"), _inputs(path, arrays, "x_test")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{path}: x_test: found {tuple(x_test.shape)}, accepted (N, "
            f"{', '.join(map(str, x_train.shape[1:]))}) as in x_train"
        )
    labels_train = _labels(path, arrays, "train", len(x_train), spec.classes or MAX_CLASSES)
    classes = spec.classes or int(labels_train.max()) + 1
    labels_test = _labels(path, arrays, "test", len(x_test), classes)
    x_train, labels_train = balanced_part(x_train, labels_train, spec.samples, spec.seed)
    return Splits(x_train, labels_train, x_test, labels_test, classes)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"data.path: found no file {path}")
    arrays: dict[str, np.ndarray] = {}
    name = "it"
    try:
        # Opened here because numpy leaves a file open that it refuses.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: found one array, accepted an .npz of {', '.join(NAMES)}")
            for name in NAMES:
                if name not in archive:
                    found = ", ".join(sorted(archive)[:6]) or "nothing"
                    raise DataError(f"{path}: has no {name}; found {found}")
            assert archive.zip is not None  # it is open
            refuse_bomb(path, archive.zip)
            for name in NAMES:
                arrays[name] = archive[name]
                if not isinstance(arrays[name], np.ndarray):  # numpy gives the bytes of others
                    raise DataError(f"{path}: {name}: found no array")
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile and numpy raise anything
        raise DataError(f"{path}: {name} cannot be read: {first_line(error)}") from error
    return arrays


def _inputs(path: Path, arrays: dict[str, np.ndarray], name: str) -> Tensor:
    array = arrays[name]
    shape = array.shape
    if array.ndim not in (2, 4) or 0 in shape:
        raise DataError(
            f"{path}: {name}: found shape {shape}, accepted (N, C, H, W) or (N, features)"
        )
    if array.ndim == 4 and shape[3] in (1, 3) and shape[1] == shape[2] > 4:
        raise DataError(
            f"{path}: {name}: found shape {shape}, channels last; accepted (N, C, H, W)"
        )
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if array.dtype.kind != "f":
        raise DataError(f"{path}: {name}: found {array.dtype}, accepted uint8 or floating point")
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


def _labels(
    path: Path, arrays: dict[str, np.ndarray], split: str, count: int, classes: int
) -> Tensor:
    name = f"y_{split}"
    array = arrays[name]
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise DataError(
            f"{path}: {name}: found {array.dtype} {array.shape}, accepted whole numbers "
            f"({count},), one for each of x_{split}; networks without classes are pruned in Python "
            "(gfs_dist.prune)"
        )
    wrong = (array < 0) | (array >= classes)
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"{path}: {name}: found label {array[first]} at index {first}, "
            f"accepted 0 to {classes - 1}"
        )
    return torch.from_numpy(array.astype(np.int64))
