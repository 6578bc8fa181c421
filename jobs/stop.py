"""``gfs stop ID``: end a job; it can go on later."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gfs_dist.config.cluster import OfJob
from gfs_dist.workflows.follow_job import find_job, next_commands
from gfs_dist.workflows.reporter import Reporter


def run(config: OfJob, reporter: Reporter) -> dict[str, Any]:
    """End it, and return once it has ended.

    Raises:
        InputError: no cluster, or no such job; names those that are alike.
        RunError: it does not end.
        KeyboardInterrupt: the user waits no longer for one that ends when its turn comes.
    """
    jobs, job = find_job(config)
    if job.over:
        reporter.note(f"{job.id} is over already: {job.status}")
    else:
        if job.status == "PENDING":
            reporter.note(f"{job.id} waits for its turn, and is stopped when that comes")
        try:
            job = jobs.stop(job)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                f"{job.id} was asked to stop: see gfs status {job.id}"
            ) from error
        again = "the same gfs submit goes on where it stopped"
        how = again if job.status == "STOPPED" else "it ended by itself"
        reporter.note(f"{job.id}: {job.status}; {how}")
    reporter.next(next_commands(jobs, job))
    return asdict(job)
