"""One writer a folder: a lock that dies with its process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from gfs_dist.errors import RunFolderError
from gfs_dist.files import atomic
from gfs_dist.files.untrusted import open_regular

NAME = ".lock"


class FolderLock:
    """Holds ``folder/name`` until :meth:`release`, or until this process ends, however it ends.

    The system drops the lock with the process, so that a file left by a dead one locks nothing.
    The file says who holds it.

    Raises:
        RunFolderError: another process works in the folder (names it), or that is no regular file.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.path = folder / name
        while True:
            with atomic.storage_errors(self.path):
                self._descriptor = open_regular(self.path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(self._descriptor, 200, 0).decode(errors="replace").strip()
                os.close(self._descriptor)
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise RunFolderError(f"{self.path}: cannot be locked: {error}") from error
                raise RunFolderError(
                    f"{folder}: in use by {holder or 'another process'}; wait for it or stop it"
                ) from error
            if self._is_current():
                break
            os.close(self._descriptor)  # its last holder removed the file meanwhile
        os.ftruncate(self._descriptor, 0)
        with atomic.storage_errors(self.path):
            os.pwrite(self._descriptor, f"process {os.getpid()}{here()}\n".encode(), 0)

    def release(self) -> None:
        """Let others work in the folder; a second call does nothing."""
        if self._descriptor < 0:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False


def here() -> str:
    """What a lock says of the machine of the process that holds it."""
    return f" on {socket.gethostname()}"
