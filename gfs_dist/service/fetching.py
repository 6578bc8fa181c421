"""Bringing back what a job has written."""

from __future__ import annotations

import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec.core

from gfs_dist.errors import GfsError, InputError, RunFolderError, StorageError
from gfs_dist.files import atomic
from gfs_dist.service.jobs import Job, Jobs
from gfs_dist.service.packing import left_out, unpack

PACK_TIMEOUT_S = 600.0


def fetch(jobs: Jobs, job: Job, into: Path) -> int | None:
    """Bring the run folder of ``job``; the number of files, None if ``into`` is that folder.

    It is copied where this machine sees it, else printed by a small job and read from its log.

    Raises:
        RunFolderError: ``into`` holds something already.
        RunError: the folder is not there, too large to be printed, or arrived damaged.
        StorageError: cannot be written; nothing is left behind.
    """
    source = Path(job.run_folder)
    if into.absolute() == source or (into.exists() and source.exists() and into.samefile(source)):
        return None
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise RunFolderError(f"DIR: {into} exists and is not empty; choose another")
    with atomic.storage_errors(into):
        into.parent.mkdir(parents=True, exist_ok=True)
    with atomic.folder(into) as aside:
        if source.is_dir():
            shutil.copytree(source, aside, dirs_exist_ok=True, ignore=_left_out)
        else:
            unpack(_printed(jobs, job), aside)
    return sum(file.is_file() for file in into.rglob("*"))


def fetch_to_url(jobs: Jobs, job: Job, url: str) -> int:
    """Copy the run folder of ``job`` to a URL of fsspec's (``s3://``, ``gs://``, ...); the number
    of files.

    ``report.json`` comes last: where it is, everything is.

    Raises:
        InputError: the URL is of a kind that is not known or not installed here.
        RunFolderError: there is something already.
        RunError: as :func:`fetch`.
        StorageError: cannot be written.
    """
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"DIR: found {url}: {error}") from error
    with tempfile.TemporaryDirectory(prefix="gfs-fetch-") as folder, _told(url):
        if system.exists(root) and system.ls(root):
            raise RunFolderError(f"DIR: {url} exists and is not empty; choose another")
        source = Path(job.run_folder)
        if not source.is_dir():
            source = Path(folder)
            unpack(_printed(jobs, job), source)
        files = [file for file in source.rglob("*") if file.is_file() and not left_out(file.name)]
        files.sort(key=lambda file: (file == source / "report.json", file))
        for file in files:
            target = f"{root.rstrip('/')}/{file.relative_to(source).as_posix()}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), target)
    return len(files)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Errors of storage in one line, with what they are about; its libraries have their own."""
    try:
        yield
    except GfsError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StorageError(f"DIR: {url} cannot be written: {said}") from error


def _printed(jobs: Jobs, job: Job) -> str:
    """The run folder as the cluster prints it."""
    name = f"fetch-{job.id}-{secrets.token_hex(4)}"
    entrypoint = f"exec python -m gfs_dist.service.packing {shlex.quote(job.run_folder)}"
    with tempfile.TemporaryDirectory(prefix="gfs-fetch-") as empty:
        return jobs.output(name, entrypoint, Path(empty), PACK_TIMEOUT_S)


def _left_out(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if left_out(name)]
