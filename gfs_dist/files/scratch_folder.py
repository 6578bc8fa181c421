"""Temporary folders that are removed with their process, also if it is killed."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from gfs_dist.errors import RunFolderError, StorageError
from gfs_dist.files import atomic
from gfs_dist.files.lock import FolderLock, here

PREFIX = "gfs_"
OWNER = ".gfs_scratch"
"""File that the owning process keeps locked as long as it lives."""


class ScratchFolder:
    """A new folder of this process among the temporary files, until :meth:`close`.

    The folder of a killed process is removed by the next process that makes one.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, kind: str) -> None:
        temporary = Path(tempfile.gettempdir())
        with atomic.storage_errors(temporary):
            _remove_orphans(temporary)
            # Renamed once it is locked: under its name no other process finds it without an owner.
            hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}{kind}_", dir=temporary))
            self._lock = FolderLock(hidden, OWNER)
            self._root = hidden.rename(temporary / hidden.name.removeprefix("."))
            self.path = self._root / "work"
            self.path.mkdir()

    def close(self) -> None:
        """Remove it; a second call does nothing."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._lock.release()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.close()


def _remove_orphans(temporary: Path) -> None:
    """Remove this user's scratch folders whose process has died on this machine."""
    for folder in temporary.glob(f"{PREFIX}*"):
        # It may be in use, removed by another process meanwhile, or no scratch folder.
        with suppress(RunFolderError, StorageError, OSError):
            facts, owner = folder.lstat(), folder / OWNER
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
                continue
            if not owner.is_file() or not owner.read_bytes().endswith(f"{here()}\n".encode()):
                continue  # of another machine, whose locks may not be seen here
            lock = FolderLock(folder, OWNER)
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


class _TerminatedError(BaseException):
    """SIGTERM was received."""


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Exit all contexts on SIGTERM before it ends the process, unless it is handled already."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def unwind(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        raise _TerminatedError

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    except _TerminatedError:
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
