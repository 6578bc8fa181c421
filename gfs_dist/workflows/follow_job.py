"""What the commands that talk to a cluster have in common."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gfs_dist.command_words import typed
from gfs_dist.config.cluster import OfJob, OnCluster
from gfs_dist.errors import JobEndedError
from gfs_dist.service.cluster import find_cluster
from gfs_dist.service.jobs import Job, Jobs
from gfs_dist.workflows.reporter import Reporter

STOPPED = 130
"""The exit code of what was interrupted and can go on."""


def connect(address: str | None, insecure: bool) -> Jobs:
    """The jobs of the cluster that is meant.

    Raises:
        ClusterError: there is none, or none that may be used.
    """
    return Jobs(find_cluster(address, insecure=insecure))


def of_config(config: OnCluster) -> Jobs:
    """The same for a command's configuration."""
    return connect(config.runtime.address, config.insecure)


def one_job(config: OfJob) -> tuple[Jobs, Job]:
    """The job that is meant.

    Raises:
        InputError: no cluster, or no such job; names those that are alike.
    """
    jobs = of_config(config)
    return jobs, jobs.find(config.id)


def facts_of(job: Job) -> dict[str, Any]:
    """A job as ``--json`` prints it."""
    return asdict(job)


def commands(job: Job, address: str | None, *, insecure: bool) -> list[str]:
    """What can be done with a job now, as it is typed."""
    words = {
        "PENDING": ("status {}", "logs {} -f", "stop {}"),
        "RUNNING": ("status {}", "logs {} -f", "stop {}"),
        "SUCCEEDED": ("fetch {}", "logs {}"),
        "FAILED": ("logs {}", "status {}"),
        "STOPPED": ("logs {}", "status {}"),
    }[job.status]
    where = [typed("runtime.address", address)] if address else []
    flags = [*where, *(["--insecure"] if insecure else [])]
    return [" ".join(["gfs", word.format(job.id), *flags]) for word in words]


def goes_on(job: Job, address: str | None, *, insecure: bool) -> str:
    """What to tell who follows a job no longer that has not ended."""
    again, end = commands(job, address, insecure=insecure)[-2:]
    return f"{job.id} goes on; follow it: {again}; end it: {end}"


def follow(jobs: Jobs, job: Job, reporter: Reporter, address: str | None, *, insecure: bool) -> Job:
    """Show what a job prints until it is over; the job then.

    Raises:
        JobEndedError: not well; has its exit code.
        KeyboardInterrupt: the user has seen enough; the job goes on.
    """
    lines = _Lines(reporter)
    try:
        job = jobs.follow(job, lines.write)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(goes_on(job, address, insecure=insecure)) from error
    lines.close()
    if job.status != "SUCCEEDED":
        raise JobEndedError(how_it_ended(job), exit_code_of(job))
    reporter.next(commands(job, address, insecure=insecure))
    return job


def exit_code_of(job: Job) -> int:
    """As the job's own command exited."""
    if job.status == "STOPPED":
        return STOPPED
    if job.status == "FAILED":
        return job.exit_code or 1
    return 0


def how_it_ended(job: Job) -> str:
    """In one line; the same submission goes on where it was."""
    if job.status == "STOPPED":
        return f"{job.id} was stopped; submit it again to go on"
    code = "" if job.exit_code is None else f" with exit code {job.exit_code}"
    said = [line for line in job.message.splitlines() if line.strip().startswith("gfs: ")]
    why = f": {said[-1].strip().removeprefix('gfs: ')}" if said else ""
    if not why and job.exit_code is None:
        why = f": {job.message.strip().splitlines()[0]}" if job.message.strip() else ""
    return f"{job.id} failed{code}{why}"


class _Lines:
    """Chunks of text, passed on line by line."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._rest = reporter, ""

    def write(self, chunk: str) -> None:
        *lines, self._rest = (self._rest + chunk).split("\n")
        for line in lines:
            self._reporter.relay(line)

    def close(self) -> None:
        if self._rest:
            self._reporter.relay(self._rest)
