"""Following a job on a cluster, and what the commands say of it."""

from __future__ import annotations

from gfs_dist.config.cluster import OfJob
from gfs_dist.errors import JobEndedError
from gfs_dist.service.cluster import find_cluster
from gfs_dist.service.jobs import Job, Jobs
from gfs_dist.workflows.reporter import Reporter

STOPPED = 130
"""The exit code of a job that was interrupted and can go on."""


def find_job(config: OfJob) -> tuple[Jobs, Job]:
    """The job that a command names, and the jobs of its cluster.

    Raises:
        InputError: no cluster, or no such job; names those that are alike.
    """
    jobs = Jobs(find_cluster(config.runtime.address, insecure=config.insecure))
    return jobs, jobs.find(config.id)


def next_commands(jobs: Jobs, job: Job) -> list[str]:
    """The commands that make sense for a job in its state, as they are typed."""
    commands = {
        "PENDING": ("status {}", "logs {} -f", "stop {}"),
        "RUNNING": ("status {}", "logs {} -f", "stop {}"),
        "SUCCEEDED": ("fetch {}", "logs {}"),
        "FAILED": ("logs {}", "status {}"),
        "STOPPED": ("logs {}", "status {}"),
    }[job.status]
    return [" ".join(["gfs", words.format(job.id), *jobs.cluster.words]) for words in commands]


def goes_on(jobs: Jobs, job: Job) -> str:
    """A line for one who stops following: the job has not ended."""
    again, end = next_commands(jobs, job)[-2:]
    return f"{job.id} goes on; follow it: {again}; end it: {end}"


def follow(jobs: Jobs, job: Job, reporter: Reporter) -> Job:
    """Show the output of a job line by line until it is over; returns the job then.

    Raises:
        JobEndedError: the job failed or was stopped; has its exit code.
        ClusterLostError: the cluster no longer answers.
        KeyboardInterrupt: the user stops following; the job continues.
    """
    rest = ""

    def write(chunk: str) -> None:
        nonlocal rest
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            reporter.relay(line)

    try:
        job = jobs.follow(job, write)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(goes_on(jobs, job)) from error
    if rest:
        reporter.relay(rest)
    if job.status != "SUCCEEDED":
        code = STOPPED if job.status == "STOPPED" else job.exit_code or 1
        raise JobEndedError(how_it_ended(job), code)
    reporter.next(next_commands(jobs, job))
    return job


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
