"""Archives of others: read in place, never unpacked to disk, and only if they fit in memory."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from gfs_dist.errors import DataError
from gfs_dist.runtime.memory import free_memory_bytes


def refuse_bomb(path: Path, archive: ZipFile) -> None:
    """Do nothing where all that an archive holds fits in memory; no more than that is ever read.

    Raises:
        DataError: it does not; names the file and both sizes.
    """
    size, free = sum(member.file_size for member in archive.infolist()), free_memory_bytes()
    if size > free:
        raise DataError(
            f"{path}: holds {size / 2**30:,.1f} GiB unpacked, found {free / 2**30:,.1f} GiB free"
        )


def first_line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
