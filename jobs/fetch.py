"""``gfs fetch ID [DIR]``: bring back the run folder of a job."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gfs_dist.command_words import typed_place
from gfs_dist.config.cluster import Fetch
from gfs_dist.service.fetching import fetch, fetch_to_url
from gfs_dist.urls import is_url
from gfs_dist.workflows.follow_job import find_job
from gfs_dist.workflows.reporter import Reporter


def run(config: Fetch, reporter: Reporter) -> dict[str, Any]:
    """Copy it.

    Raises:
        InputError: no cluster, no such job, it has written nothing, or there is something else.
    """
    jobs, job = find_job(config)
    if not job.over:
        reporter.note(f"{job.id} is still {job.status}: what it has written so far")
    if config.into is not None and is_url(config.into):
        sent = fetch_to_url(jobs, job, config.into)
        reporter.note(f"run folder of {job.id}: {sent:,} files are now in {config.into}")
        return {**asdict(job), "fetched": config.into}
    into = Path(config.into or Path("runs") / job.base)
    copied = fetch(jobs, job, into)
    there = "is" if copied is None else f"{copied:,} files are now"
    reporter.note(f"run folder of {job.id}: {there} in {into}")
    reporter.next([f"gfs report {typed_place('path', str(into))} --open"])
    return {**asdict(job), "fetched": str(into.absolute())}
