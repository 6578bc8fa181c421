"""``gfs logs ID``: what a job has printed, or one of its ranks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gfs_dist.config.cluster import Logs
from gfs_dist.errors import InputError
from gfs_dist.files.remote import Remote
from gfs_dist.service.jobs import Job
from gfs_dist.urls import below, is_url
from gfs_dist.workflows.follow_job import find_job, follow
from gfs_dist.workflows.reporter import Reporter


def run(config: Logs, reporter: Reporter) -> dict[str, Any]:
    """Show it; with ``follow`` until the job is over.

    Raises:
        InputError: no cluster, no such job, or no such rank.
        JobEndedError: a job that was followed did not end well; has its exit code.
    """
    jobs, job = find_job(config)
    if config.rank is not None:
        text = _of_rank(job, config.rank)
    elif config.follow:
        return asdict(follow(jobs, job, reporter))
    else:
        text = jobs.logs(job)
    for line in text.splitlines():
        reporter.note(line)
    return {**asdict(job), "log": text}


def _of_rank(job: Job, rank: int) -> str:
    """The log of one rank, from the run folder."""
    name, folder = f"rank_{rank}.log", below(job.run_folder, "logs")
    remote = Remote(folder, "run folder") if is_url(folder) else None
    files = (
        remote.files()
        if remote
        else [file.name for file in Path(folder).glob("*") if file.is_file()]
    )
    if name not in files:
        there = sorted(found for found in files if found.startswith("rank_"))
        words = ", ".join(there) or f"none in {folder}; gfs fetch {job.id} brings the run folder"
        raise InputError(f"rank: found no {name}, accepted those of {words}")
    content = remote.read(name) if remote else Path(folder, name).read_bytes()
    return content.decode("utf-8", errors="replace")
