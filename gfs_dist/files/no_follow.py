"""Opening files in a run folder, which may be anybody's: no links out of it, no pipes.

A link would have us write to where it points, a pipe would block for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from gfs_dist.errors import RunFolderError

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
    """Refuse a folder that holds a link out of it, or what is neither file nor folder.

    Raises:
        RunFolderError: names the first, and where it leads.
    """
    home = os.path.realpath(folder)
    for place, folders, names in os.walk(folder):
        for path in sorted(Path(place, name) for name in (*folders, *names)):
            with contextlib.suppress(FileNotFoundError):  # a run at work there has moved it
                _refuse_outside_link(path, home)


def _refuse_outside_link(path: Path, home: str) -> None:
    if path.is_symlink() and not _is_in(path, home):
        target = os.path.realpath(path)
        raise RunFolderError(f"{path}: found a link to {target}, accepted none out of its folder")
    if (found := kind(path)) not in (LINK, FOLDER, FILE):
        raise RunFolderError(f"{path}: found {found}, accepted files and folders")


def _is_in(path: Path, home: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(home)


def kind(path: Path) -> str:
    """What lies at ``path``, in words.

    Raises:
        FileNotFoundError: nothing.
    """
    words = {stat.S_IFLNK: LINK, stat.S_IFDIR: FOLDER, stat.S_IFREG: FILE, stat.S_IFIFO: "a pipe"}
    return words.get(stat.S_IFMT(path.lstat().st_mode), "a socket or device")
