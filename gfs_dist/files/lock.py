"""A lock on a folder that is released with its process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from gfs_dist.errors import RunFolderError
from gfs_dist.files import atomic
from gfs_dist.files.untrusted import open_regular

LOCK = ".lock"


class FolderLock:
    """Locks ``folder/name`` until :meth:`release`, or until this process ends, however it ends.

    The system releases the lock of a dead process, so that a file left by it locks nothing. The
    file names the process and machine.

    Raises:
        RunFolderError: another process holds the lock (names it), or the file is no regular one.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str = LOCK) -> None:
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
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                    break
            os.close(self._descriptor)  # its last holder removed the file meanwhile
        os.ftruncate(self._descriptor, 0)
        with atomic.storage_errors(self.path):
            os.pwrite(self._descriptor, f"process {os.getpid()}{here()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._descriptor < 0:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def here() -> str:
    """This machine, as in the content of a lock."""
    return f" on {socket.gethostname()}"
