"""Submit a job once: again, it attaches to the job at work, or goes on with one that failed.

The id of a submission is a hash of its composed configuration: what it computes and where it
writes. Attempts are numbered and share one run folder, from which the job itself goes on. The
working directory of a job holds its configuration and the user's own code, nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from gfs_dist.errors import ClusterError, InputError
from gfs_dist.files.remote import Remote
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.service.capacity import Capacity, Demand
from gfs_dist.service.jobs import AlreadyThereError, Job, Jobs
from gfs_dist.urls import is_url

HASH_LENGTH = 10
CONFIG = "gfs-job.yaml"
"""The configuration in a job's working directory."""

_SKIPPED = ("__pycache__", "node_modules", "build", "dist", "site-packages")
_APART = ("pyvenv.cfg", "events.jsonl", "report.json")
"""Files of environments and of run folders, neither of which is code."""
_OURS = ("gfs_dist", "jobs", "conf")
_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".npy", ".npz", ".zip", ".tar", ".gz", ".pyc")


@dataclass(frozen=True)
class Submission:
    """A job that is ready to go.

    Attributes:
        job: the command.
        identity: text that differs where results or their place differ.
        config_text: the configuration that the job gets.
        run_folder: absolute, on storage that the cluster shares; or a URL.
        demand: what it takes of a cluster.
        factory: the user's own code that it needs.
    """

    job: str
    identity: str
    config_text: str
    run_folder: str
    demand: Demand
    factory: str | None = None

    @property
    def sha256(self) -> str:
        """Of the identity, lower-case hex."""
        return hashlib.sha256(self.identity.encode()).hexdigest()

    @property
    def base(self) -> str:
        """The id without the number of the attempt: letters, digits, ``_`` and ``-`` alone."""
        return f"{re.sub('[^A-Za-z0-9_-]', '_', self.job)}-{self.sha256[:HASH_LENGTH]}"


@dataclass(frozen=True)
class Sent:
    """The outcome of a submission.

    Attributes:
        job: as the cluster knows it now.
        how: ``submitted``, ``resumed``, ``attached``, ``finished`` (it had been before).
        shipped: files of the user's own that went along.
    """

    job: Job
    how: str
    shipped: tuple[str, ...] = ()


def send(jobs: Jobs, submission: Submission, capacity: Capacity) -> Sent:
    """Submit, attach to a job at work, or find that it has finished.

    Raises:
        ClusterError: another job writes to the same run folder, or the cluster takes no job.
        ConfigError: a run folder at a URL that cannot be reached from here.
    """
    known = jobs.list()
    tries = sorted((j for j in known if j.base == submission.base), key=lambda job: job.attempt)
    if tries and not tries[-1].over:
        return Sent(tries[-1], "attached")
    if tries and tries[-1].status == "SUCCEEDED" and not _is_gone(submission.run_folder):
        return Sent(tries[-1], "finished")
    for job in known:
        if not job.over and job.run_folder == submission.run_folder:
            raise ClusterError(
                f"out: {submission.run_folder} is what {job.id} writes to ({job.status}); wait for "
                "it, stop it, or choose another"
            )
    attempt = tries[-1].attempt + 1 if tries else 1
    job_id = f"{submission.base}-{attempt}"
    facts = {
        "gfs_job": submission.job,
        "gfs_id": submission.base,
        "gfs_attempt": str(attempt),
        "config_sha256": submission.sha256,
        "git_commit": git_commit(),
        "run_folder": submission.run_folder,
    }
    reserve = capacity.driver_resources(submission.demand)
    with ScratchFolder("submit") as folder:
        shipped = stage(folder, submission.config_text, submission.factory)
        entrypoint = f"exec python -m gfs_dist {submission.job} --config {CONFIG}"
        if submission.factory is not None:
            entrypoint += f" {shlex.quote(f'model.factory={submission.factory}')}"
        try:
            jobs.submit(job_id, entrypoint, folder, facts, **reserve)
        except AlreadyThereError:  # another process was faster
            return Sent(jobs.find(job_id), "attached")
    return Sent(jobs.find(job_id), "resumed" if tries else "submitted", tuple(shipped))


def git_commit() -> str:
    """The commit here, ``-dirty`` where files differ from it; empty without a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _is_gone(run_folder: str) -> bool:
    """Whether a run folder was deleted; False where this machine cannot see it."""
    if is_url(run_folder):
        return not Remote(run_folder, "out").files()
    folder = Path(run_folder)
    return folder.parent.is_dir() and not folder.exists()


def stage(folder: Path, config_text: str, factory: str | None) -> list[str]:
    """Fill ``folder`` with what a job needs; returns the files of the user's own among them.

    Args:
        folder: empty.
        config_text: the configuration as composed.
        factory: ``package.module:function`` of ``model=custom``. All Python files beside its
            package go along, since it may import them, and its package whole but for weights and
            data. What is installed is expected to be installed on the cluster too.

    Raises:
        InputError: the module is not found.
    """
    (folder / CONFIG).write_text(config_text, encoding="utf-8")
    package = None if factory is None else re.split("[:.]", factory)[0]
    root = None if package is None else _root(package)
    if root is None:
        return []
    copied = []
    for file in _files(root):
        name = file.relative_to(root)
        if file.suffix != ".py" and (name.parts[0] != package or file.suffix in _WEIGHTS):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
        copied.append(name.as_posix())
    return copied


def _root(package: str) -> Path | None:
    """The folder that makes ``package`` importable; None if it is installed."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        spec = util.find_spec(package)
    finally:
        sys.path.remove(here)
    if spec is None:
        raise InputError(f"model.factory: found no module {package!r} in {here} or installed")
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    file = Path(places[0]).resolve()
    inside = file.is_relative_to(Path(sys.prefix)) or file.is_relative_to(Path(sys.base_prefix))
    if inside and ("site-packages" in file.parts or not file.is_relative_to(here)):
        return None
    is_package = spec.submodule_search_locations and spec.origin  # its __init__.py
    return file.parent.parent if is_package else file.parent


def _files(root: Path) -> Iterator[Path]:
    ours = _OURS if (root / "gfs_dist" / "service").is_dir() else ()
    for folder, folders, names in os.walk(root):
        top = Path(folder) == root
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in _SKIPPED
            and not (top and name in ours)
            and not any(Path(folder, name, sign).exists() for sign in _APART)
        )
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))
