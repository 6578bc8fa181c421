"""Atomic writes: a file or folder appears whole or not at all.

Everything is written under a temporary name beside its place, flushed to the disk, and moved. A
process that dies leaves at most temporary names (:data:`PREFIX`), which :func:`sweep` removes and
nothing else ever reads.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gfs_dist.errors import StorageError
from gfs_dist.files.untrusted import open_regular

PREFIX = ".writing-"
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
PART_BYTES = 2**16
"""Of a file that is read from its end, however long it is."""


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write one file atomically and durably.

    Raises:
        StorageError: disk full, no permission, missing folder; nothing is left behind.
    """
    with replacing(Path(path)) as aside:
        aside.write_bytes(content)


def copy(source: Path | str, path: Path | str) -> None:
    """Like :func:`write_bytes`, with the content of another file."""
    with replacing(Path(path)) as aside:
        shutil.copyfile(source, aside)


def write_text(path: Path | str, content: str) -> None:
    """Like :func:`write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path | str, content: Any, *, indent: int | None = 1) -> None:
    """Like :func:`write_bytes`, as JSON; floats that are not finite become null."""
    write_text(path, json_text(content, indent=indent) + "\n")


def json_text(content: Any, *, indent: int | None = None) -> str:
    """``content`` as JSON text; floats that are not finite become null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


@contextmanager
def folder(path: Path | str) -> Iterator[Path]:
    """Fill a folder aside; it appears under ``path`` only when the block ends well.

    A folder that is already there is replaced. Yields the folder to write into.

    Raises:
        StorageError: disk full, no permission, missing parent; nothing is left behind.
    """
    path = Path(path)
    aside = name_beside(path)
    with storage_errors(path):
        try:
            aside.mkdir()
            yield aside
            _sync(aside)
            if path.exists():
                old = name_beside(path)
                path.replace(old)
                aside.replace(path)
                remove(old)
            else:
                aside.replace(path)
        except StorageError as error:
            raise StorageError(str(error).replace(aside.name, path.name)) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _sync(path.parent)


def append_line(path: Path | str, line: str) -> None:
    """Add one line to a file; a line that does not fit on the disk is taken back.

    Raises:
        StorageError: disk full or no permission; the file is as before.
        RunFolderError: it is a link, a pipe or the like.
    """
    path = Path(path)
    content = (line + "\n").encode()
    with storage_errors(path), os.fdopen(open_regular(path, APPEND), "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            if file.write(content) != len(content):
                file.write(content[file.tell() - before :])
        except BaseException:
            file.truncate(before)
            raise


def drop_torn_line(path: Path | str) -> None:
    """Cut off a last line without its end, which a dying process may leave."""
    path = Path(path)
    if not path.exists():
        return
    with storage_errors(path), os.fdopen(open_regular(path, os.O_RDWR), "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - PART_BYTES)
            file.seek(start)
            if (last := file.read(end - start).rfind(b"\n")) >= 0:
                file.truncate(start + last + 1)
                return
            end = start
        file.truncate(0)


def sweep(root: Path | str) -> None:
    """Remove leftovers of dying writers; for the only process that may write under ``root``."""
    with storage_errors(Path(root)):
        for folder_name, folders, names in os.walk(root):
            for name in [name for name in (*folders, *names) if name.startswith(PREFIX)]:
                remove(Path(folder_name, name))
            folders[:] = [name for name in folders if not name.startswith(PREFIX)]


def remove(path: Path) -> None:
    """Remove a file, a folder with its content, or a link but not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors into a :class:`StorageError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def name_beside(path: Path) -> Path:
    """A temporary name beside ``path``, which :func:`sweep` recognises."""
    return path.parent / f"{PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A name to write a file under; it becomes ``path`` only when the block ends well.

    Args:
        path: replaced if it is there.
        durable: the file outlasts a power cut.

    Raises:
        StorageError: disk full, no permission, missing folder; nothing is left behind.
    """
    aside = name_beside(path)
    with storage_errors(path):
        try:
            yield aside
            if durable:
                _sync(aside)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        if durable:
            _sync(path.parent)


def _sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
