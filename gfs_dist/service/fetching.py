"""Copy the run folder of a job back from its cluster."""

from __future__ import annotations

import secrets
import shlex
import shutil
from pathlib import Path

from gfs_dist.errors import RunFolderError
from gfs_dist.files import atomic
from gfs_dist.files.mirror import REPORT, fill
from gfs_dist.files.remote import Remote
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.service.jobs import Job, Jobs
from gfs_dist.service.packing import plain_files, unpack
from gfs_dist.urls import is_url

PACK_TIMEOUT_S = 600.0


def fetch(jobs: Jobs, job: Job, into: Path) -> int | None:
    """Copy the run folder of ``job``; returns the number of files, None if ``into`` is that folder.

    It is copied from its URL or where this machine sees it, else printed by a small job and read
    from its log.

    Raises:
        RunFolderError: ``into`` holds something already, or there is nothing yet.
        ConfigError: a URL that cannot be reached or read.
        RunError: the folder is not there, too large to be printed, or arrived damaged.
        StorageError: cannot be written; nothing is left behind.
    """
    source = Path(job.run_folder)
    if into.absolute() == source or (into.exists() and source.exists() and into.samefile(source)):
        return None
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise RunFolderError(f"DIR: {into} exists and is not empty; choose another")
    into = into.resolve()  # a link of the user's stays
    with atomic.storage_errors(into):
        into.parent.mkdir(parents=True, exist_ok=True)
    with atomic.folder(into) as aside:
        _copy(jobs, job, aside)
    return sum(file.is_file() for file in into.rglob("*"))


def fetch_to_url(jobs: Jobs, job: Job, url: str) -> int:
    """Copy the run folder of ``job`` to a URL of fsspec's (``s3://``, ``gs://``, ...); the number
    of files.

    ``report.json`` comes last: where it is, everything is.

    Raises:
        ConfigError: the URL is of a kind that is not known or not installed here, or out of reach.
        RunFolderError: there is something already.
        RunError: as :func:`fetch`.
        StorageError: cannot be written.
    """
    remote = Remote(url, "DIR")
    if remote.files():
        raise RunFolderError(f"DIR: {url} exists and is not empty; choose another")
    with ScratchFolder("fetch") as folder:
        source = Path(job.run_folder)
        if is_url(job.run_folder) or not source.is_dir():
            source = folder
            _copy(jobs, job, source)
        names = sorted(plain_files(source), key=lambda name: (name == REPORT, name))
        for name in names:
            remote.put(name, source / name)
    return len(names)


def _copy(jobs: Jobs, job: Job, into: Path) -> None:
    """Fill an empty folder with the files of a run folder."""
    source = Path(job.run_folder)
    if is_url(job.run_folder):
        fill(into, Remote(job.run_folder, "run folder"))
        if not any(into.iterdir()):
            raise RunFolderError(f"run folder: {job.run_folder} holds nothing yet")
    elif source.is_dir():
        for name in plain_files(source):
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, into / name)
    else:
        unpack(_print_packed(jobs, job), into)


def _print_packed(jobs: Jobs, job: Job) -> str:
    name = f"fetch-{job.id}-{secrets.token_hex(4)}"
    entrypoint = f"exec python -m gfs_dist.service.packing {shlex.quote(job.run_folder)}"
    with ScratchFolder("fetch") as empty:
        return jobs.output(name, entrypoint, empty, PACK_TIMEOUT_S)
