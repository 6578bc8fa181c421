"""Files that may come from anyone: no links out of their folder, no pipes, no endless JSON.

A link would have us write to where it points, a pipe would block for ever. Needs no torch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from gfs_dist.errors import CheckpointError, RunFolderError
from gfs_dist.records import FORMAT

STATE = "state.json"
"""Of a checkpoint folder."""

ARCHITECTURE = "architecture.json"
"""Of the folder of a stored network."""

TENSOR_SUFFIXES = (".safetensors", ".pt", ".pth")
"""Of bare files of tensors."""

MAX_JSON_BYTES = 64 * 2**20

LINK, FOLDER, FILE = "a link", "a folder", "a file"


def open_regular(path: Path, flags: int) -> int:
    """The descriptor of a regular file, opened as ``os.open`` does; a link is not followed.

    Raises:
        RunFolderError: it is a link, pipe, socket, device or folder.
        OSError: it is not there, or may not be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise RunFolderError(f"{path}: found {kind(path)}, accepted a regular file")


def inside(folder: Path, relative: str) -> Path:
    """The path that is ``relative`` to ``folder``.

    Raises:
        RunFolderError: it leads out of it.
    """
    path = folder / relative
    if "\0" in relative or not _is_in(path, os.path.realpath(folder)):
        raise RunFolderError(f"{folder}: {relative!r} leads out of the run folder")
    return path


def refuse_outside_links(folder: Path) -> None:
    """Refuse a folder that holds a link out of it, a pipe, a socket or a device.

    Raises:
        RunFolderError: names the first, and where it leads.
    """
    home = os.path.realpath(folder)
    for place, folders, names in os.walk(folder):
        for path in sorted(Path(place, name) for name in (*folders, *names)):
            with contextlib.suppress(FileNotFoundError):  # a run at work there has moved it
                if path.is_symlink() and not _is_in(path, home):
                    found = f"a link to {os.path.realpath(path)}"
                    raise RunFolderError(f"{path}: found {found}, accepted none out of its folder")
                if (found := kind(path)) not in (LINK, FOLDER, FILE):
                    raise RunFolderError(f"{path}: found {found}, accepted files and folders")


def _is_in(path: Path, home: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(home)


def kind(path: Path) -> str:
    """The kind of file at ``path``, in words.

    Raises:
        FileNotFoundError: nothing.
    """
    words = {stat.S_IFLNK: LINK, stat.S_IFDIR: FOLDER, stat.S_IFREG: FILE, stat.S_IFIFO: "a pipe"}
    return words.get(stat.S_IFMT(path.lstat().st_mode), "a socket or device")


def load_json(path: str | os.PathLike[Any]) -> Any:
    """The content of a JSON file of at most 64 MiB.

    Raises:
        OSError: missing, no regular file, or it cannot be read.
        ValueError: no JSON, too large, or nested too deeply.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe or device would never end
        raise OSError("found no regular file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"too large, accepted up to {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object whose ``format`` is one this version knows.

    Raises:
        CheckpointError: missing, not JSON, not an object, of another format.
    """
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found {type(content).__name__}, accepted a JSON object")
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: found format {content.get('format')!r}, accepted {FORMAT}")
    return content
