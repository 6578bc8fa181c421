"""A run folder at a URL: a working copy on this machine, and a thread that copies it to the URL.

The run works in the copy as in any run folder, with locks and renames, which object stores lack.
At every moment the URL holds a run folder that can be resumed, because of the order in which files
are copied: a folder's JSON after its tensors, ``report.json`` after every file that it names.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from pathlib import Path, PurePosixPath
from typing import Self

from gfs_dist.errors import ConfigError, StorageError
from gfs_dist.files import atomic
from gfs_dist.files.checksums import Stamp, stamp_of
from gfs_dist.files.lock import LOCK, FolderLock
from gfs_dist.files.remote import Remote
from gfs_dist.urls import in_home

SCRATCH = "scratch"
"""Folder within a run folder for temporary files."""

ADVICE = "advice"
"""Run folder of ``gfs advise`` within that of a training that stops by it."""

PASSING = tuple(home + name for home in ("", f"{ADVICE}/") for name in (LOCK, SCRATCH))

REPORT = "report.json"
PAUSE_S = 2.0
"""Pause between two rounds: a growing file is sent anew each time, and stores charge for it."""


def kept_files(folder: Path) -> list[str]:
    """Names of all files of a run folder but its lock, scratch and unfinished ones."""
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        here = Path(place).relative_to(folder)
        folders[:] = [name for name in folders if not _is_passing(here / name)]
        found += [(here / name).as_posix() for name in names if not _is_passing(here / name)]
    return sorted(found)


def _is_passing(path: Path) -> bool:
    return path.name.startswith(atomic.PREFIX) or str(path) in PASSING


def empty_copy(remote: Remote) -> Path:
    """The working folder of the run of a URL, always the same for this user.

    It is emptied of leftovers of a run that died here: the URL counts.

    Raises:
        RunFolderError: another process works there.
        StorageError: it cannot be written.
    """
    home = os.environ.get("XDG_STATE_HOME") or in_home("~/.local/state")
    last = re.sub("[^A-Za-z0-9_.-]", "_", remote.place.rpartition("/")[2])
    digest = hashlib.sha256(remote.place.encode()).hexdigest()[:16]
    folder = Path(home).absolute() / "gfs" / "runs" / f"{last}-{digest}"
    with atomic.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
        try:
            for item in folder.iterdir():
                if item.name != LOCK:
                    atomic.remove(item)
        finally:
            lock.release()
    return folder


def fill(folder: Path, remote: Remote) -> set[str]:
    """Copy the files at the URL into ``folder``; returns names of half-written ones there:
    temporary names, and tensors without their JSON.

    Raises:
        ConfigError: it cannot be read.
        StorageError: the copy cannot be written.
    """
    names = remote.files()
    paths = [PurePosixPath(name) for name in names]
    described = {path.parent for path in paths if path.suffix == ".json"}
    half = {
        str(path)
        for path in paths
        if any(part.startswith(atomic.PREFIX) for part in path.parts)
        or (path.suffix == ".safetensors" and path.parent not in described)
    }
    for name in sorted({*names} - half):
        file = folder / name
        with atomic.storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        remote.get(name, file)
    return half


class Mirror:
    """Mirrors ``folder`` to ``remote``; compares inode, size and modification time of files.

    :meth:`__enter__` and :meth:`__exit__` copy everything before they return; in between a thread
    copies after each :meth:`wake`. At the end the folder is removed, once all of it is at the URL.

    Args:
        filled: the folder was filled from there by :func:`fill`; else nothing is there.

    Raises:
        ConfigError: nothing can be written there, found at the start.
        StorageError: the same later, from :meth:`wake` or at the end.
    """

    def __init__(self, folder: Path, remote: Remote, *, filled: bool) -> None:
        self._folder, self._remote = folder, remote
        self._known = _stamps(folder) if filled else {}
        self._report: Stamp | None = None
        self._error: Exception | None = None
        self._changed, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def wake(self) -> None:
        """Have the thread copy everything written so far, which is consistent."""
        if self._error is not None:
            raise self._error
        self._report = _stamp(self._folder / REPORT)
        self._changed.set()

    def __enter__(self) -> Self:
        try:
            self._copy()
        except StorageError as error:
            shutil.rmtree(self._folder)
            raise ConfigError(str(error)) from error
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._over.set()
        self._changed.set()
        self._thread.join()
        self._report = _stamp(self._folder / REPORT)
        try:
            self._copy()
        except StorageError as failed:
            words = f"{failed}; what is missing there lies in {self._folder}"
            if error is None:
                raise StorageError(words) from failed
            error.add_note(words)  # the job's own error comes first
        else:
            with atomic.storage_errors(self._folder):
                shutil.rmtree(self._folder)

    def _work(self) -> None:
        while self._changed.wait() and not self._over.is_set():
            self._changed.clear()
            try:
                self._copy()
            except Exception as error:  # noqa: BLE001 - raised where the job meets it
                self._error = error
                return
            self._over.wait(PAUSE_S)

    def _copy(self) -> None:
        """One round: new and changed files, then removals."""
        report = self._report  # read first: the files that it names are among those found next
        now = _stamps(self._folder)
        changed = [name for name, stamp in now.items() if self._known.get(name) != stamp]
        for name in sorted(changed, key=lambda name: (name.endswith(".json"), name)):
            if name == REPORT:
                continue
            try:
                self._remote.put(name, self._folder / name)
                self._known[name] = now[name]
            except StorageError:
                if (self._folder / name).exists():
                    raise
        if report is not None and report != self._known.get(REPORT):
            with (self._folder / REPORT).open("rb") as file:
                # Only that version: a newer one may name files that were not found yet.
                if stamp_of(os.fstat(file.fileno())) == report:
                    self._remote.write(REPORT, file.read())
                    self._known[REPORT] = report
        for name in self._known.keys() - now.keys():
            self._remote.remove(name)
            del self._known[name]


def _stamps(folder: Path) -> dict[str, Stamp]:
    found = ((name, _stamp(folder / name)) for name in kept_files(folder))
    return {name: stamp for name, stamp in found if stamp is not None}


def _stamp(file: Path) -> Stamp | None:
    """The stamp of a file; None if it is gone."""
    try:
        return stamp_of(file.stat())
    except FileNotFoundError:
        return None
