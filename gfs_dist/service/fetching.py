"""Bringing back what a job has written."""

from __future__ import annotations

import shutil
from pathlib import Path

from gfs_dist.errors import RunFolderError
from gfs_dist.files import atomic
from gfs_dist.service.jobs import Job


def fetch(job: Job, into: Path) -> int | None:
    """Copy the run folder of ``job``; the number of files, None if ``into`` is that folder.

    Raises:
        RunFolderError: nothing is there yet, or ``into`` holds something already.
        StorageError: cannot be written; nothing is left behind.
    """
    source = Path(job.run_folder)
    if into.absolute() == source or (into.exists() and source.exists() and into.samefile(source)):
        return None
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise RunFolderError(f"DIR: {into} exists and is not empty; choose another")
    if not source.is_dir():
        raise RunFolderError(
            f"id: {job.id} writes to {source}, which cannot be seen from here; mount the cluster's "
            "storage, or copy it from there"
        )
    with atomic.storage_errors(into):
        into.parent.mkdir(parents=True, exist_ok=True)
    with atomic.folder(into) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True, ignore=_left_out)
    return sum(file.is_file() for file in into.rglob("*"))


def _left_out(_folder: str, names: list[str]) -> list[str]:
    """What is being written at this moment, and the lock of who writes."""
    return [name for name in names if name.startswith(atomic.PREFIX) or name == ".lock"]
