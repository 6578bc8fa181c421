"""Submitting the same thing twice: attaches to what runs, goes on with what failed.

A submission is known by what it computes and where it writes: its id is a hash of the composed
configuration. Each try has a number; all tries of a submission share one run folder, and the job
itself goes on where the folder says.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gfs_dist.errors import ClusterError
from gfs_dist.files.remote import Remote
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.service.capacity import Capacity, Demand
from gfs_dist.service.jobs import AlreadyThereError, Job, Jobs
from gfs_dist.service.staging import CONFIG, stage
from gfs_dist.urls import is_url

HASH_LENGTH = 10


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
    """What became of a submission.

    Attributes:
        job: as the cluster knows it now.
        how: ``submitted``, ``resumed``, ``attached``, ``finished`` (it had been before).
        shipped: files of the user's own that went along.
    """

    job: Job
    how: str
    shipped: tuple[str, ...] = ()


def send(jobs: Jobs, submission: Submission, capacity: Capacity) -> Sent:
    """Submit, attach to what runs already, or say that it has finished.

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
        except AlreadyThereError:  # somebody else was faster
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
    """Whether what it wrote was deleted; False where this machine cannot see."""
    if is_url(run_folder):
        return not Remote(run_folder, "out").files()
    folder = Path(run_folder)
    return folder.parent.is_dir() and not folder.exists()
