"""Shared by all readers: keys they need, files that are damaged or too large, labels.

Archives are read in place, never unpacked to disk, and only if they fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfs_dist.data.spec import DataSpec
from gfs_dist.errors import DataError, first_line
from gfs_dist.runtime.resources import free_memory_bytes

MAX_RATIO = 100
SMALL_BYTES = 2**28


def needed_path(spec: DataSpec, key: str, what: str) -> Path:
    """The path that ``data.root`` or ``data.path`` names.

    Raises:
        DataError: it is not given.
    """
    given: str | None = getattr(spec, key)
    if given is None:
        raise DataError(f"data.{key}: data={spec.name} needs {what}")
    return Path(given)


@contextmanager
def refusing_damage(place: Path | str, what: str = "cannot be read") -> Iterator[None]:
    """Any error of reading is raised as a DataError that names the place.

    Damaged bytes make zipfile, gzip, numpy and Pillow raise anything.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{place}: {what}: {first_line(error)}") from error


def refuse_zip_bomb(path: Path, archive: ZipFile) -> None:
    """Do nothing where the sizes that an archive names for its members are those of data; no more
    bytes than that are ever read of them.

    Raises:
        DataError: they do not fit in memory, or are small only as long as they are packed; names
            the file and both sizes.
    """
    size = sum(member.file_size for member in archive.infolist())
    refuse_larger(path, size)
    if size > max(SMALL_BYTES, MAX_RATIO * path.stat().st_size):
        raise DataError(
            f"{path}: its {path.stat().st_size:,} bytes unpack to {size:,}, accepted up to "
            f"{MAX_RATIO} times as many; arrays of so few different numbers are to be stored "
            "unpacked (numpy.savez)"
        )


def refuse_larger(path: Path, size: int) -> None:
    """Do nothing where ``size`` bytes fit in memory.

    Raises:
        DataError: they do not; names the file and both sizes.
    """
    free = free_memory_bytes()
    if size > free:
        raise DataError(
            f"{path}: holds {size / 2**30:,.1f} GiB unpacked, found {free / 2**30:,.1f} GiB free"
        )


def check_labels(
    place: Path | str, labels: NDArray[Any], classes: int, what: str = "label"
) -> Tensor:
    """Labels as int64 (m,), or numbers of tokens (m, tokens), all from 0 to ``classes - 1``.

    Raises:
        DataError: one is not; names the place, the label and its row.
    """
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{place}: found {what} {labels.flat[row]} at index {row}, accepted 0 to {classes - 1}"
        )
    return torch.from_numpy(labels.astype(np.int64))
