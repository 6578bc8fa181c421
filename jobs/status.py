"""``gfs status ID``: how a job is doing."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from gfs_dist.config.cluster import OfJob
from gfs_dist.service.jobs import Job
from gfs_dist.workflows.follow_job import find_job, how_it_ended, next_commands
from gfs_dist.workflows.reporter import Reporter

TAIL = 3


def run(config: OfJob, reporter: Reporter) -> dict[str, Any]:
    """Show it, with the last lines it printed.

    Raises:
        InputError: no cluster, or no such job; names those that are alike.
    """
    jobs, job = find_job(config)
    last = [line for line in jobs.logs(job).splitlines() if line.strip()][-TAIL:]
    reporter.table(job.id, ["", "value"], _rows(job))
    for line in last:
        reporter.note(f"> {line}")
    if job.status == "FAILED":
        reporter.note(how_it_ended(job))
    reporter.next(next_commands(jobs, job))
    return {**asdict(job), "last_lines": last}


def _rows(job: Job) -> list[list[object]]:
    return [
        ["job", job.job],
        ["status", job.status + (" (waits for its turn)" if job.status == "PENDING" else "")],
        ["attempt", job.attempt],
        ["started", _clock(job.started)],
        ["ended", _clock(job.ended)],
        ["exit code", job.exit_code],
        ["run folder", job.run_folder],
        ["configuration", job.config_sha256[:16]],
        ["git commit", job.git_commit or None],
    ]


def _clock(moment: float | None) -> str | None:
    return None if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
