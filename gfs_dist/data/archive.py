"""Archives of others: read in place, never unpacked to disk, and only if they fit in memory."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from gfs_dist.errors import DataError
from gfs_dist.runtime.resources import free_memory_bytes

MAX_RATIO = 100
SMALL_BYTES = 2**28


def refuse_bomb(path: Path, archive: ZipFile) -> None:
    """Do nothing where what an archive says of its members is what data may be; no more than that
    is ever read of them.

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


def first_line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
