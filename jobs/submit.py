"""``gfs submit JOB``: compose and check here, run on the cluster, follow to the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gfs_dist.config.cluster import unsent
from gfs_dist.errors import GfsError, JobEndedError
from gfs_dist.service.capacity import Capacity
from gfs_dist.service.cluster import find_cluster
from gfs_dist.service.jobs import Job, Jobs
from gfs_dist.service.submission import Submission, send
from gfs_dist.workflows.follow_job import follow, goes_on, next_commands
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.submission import Batch, plan, prepare

ASK_AGAIN_S = (0.0, 1.0, 1.0)
"""Pauses before each question whether a job arrived, after an interruption."""

HOW = {
    "submitted": "submitted as {id}",
    "resumed": "submitted as {id}, which goes on in {out}",
    "attached": "is at work already, as {id}",
    "finished": "has finished already, as {id}; to do it again name another folder: out=DIR",
}


def run(batch: Batch, reporter: Reporter) -> dict[str, Any]:
    """Submit jobs and, unless told otherwise, follow them to their end.

    Raises:
        ClusterError: no cluster, or a job is larger than it; nothing is submitted then.
        JobEndedError: a job did not end well; has its exit code.
    """
    with unsent():
        jobs = Jobs(find_cluster(batch.address, insecure=batch.keys.insecure))
        capacity = Capacity.of(jobs.cluster.nodes())
        submissions = [prepare(batch, config) for config in batch.configs]
        needs = [capacity.check(submission.demand) for submission in submissions]
        own = jobs.cluster.own
        plans = [plan(batch.keys.job, config, own_cluster=own) for config in batch.configs]
        lines: list[str] = []
        for submission, need, own_plan in zip(submissions, needs, plans, strict=True):
            lines += [*own_plan, f"cluster   {jobs.cluster.url}: {need}"]
            lines += [f"folder    {submission.run_folder}"]
        reporter.plan(lines)
    sent = []
    try:
        for submission in submissions:
            one = send(jobs, submission, capacity)
            sent.append(one)
            if one.shipped:
                reporter.note(f"code      {len(one.shipped)} files of yours went along")
            reporter.note(HOW[one.how].format(id=one.job.id, out=one.job.run_folder))
            reporter.next(next_commands(jobs, one.job))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_what_was_sent(jobs, submissions)) from error
    answers = [{**asdict(one.job), "how": one.how} for one in sent]
    if batch.keys.wait:
        _follow(jobs, [one.job for one in sent if one.how != "finished"], reporter)
    return answers[0] if len(answers) == 1 else {"runs": answers}


def _what_was_sent(jobs: Jobs, submissions: Sequence[Submission]) -> str:
    """Which of ``submissions`` the cluster has: their ids are known before it gets them."""
    bases = [submission.base for submission in submissions]
    found: list[Job] = []
    try:
        for wait_s in ASK_AGAIN_S:  # a request that was cut off may still arrive
            time.sleep(wait_s)
            found = [job for job in jobs.list() if job.base in bases and not job.over]
            if len(found) == len(bases):
                break
    except (GfsError, KeyboardInterrupt):
        return f"whether {', '.join(bases)} was submitted is not known: see gfs list"
    if len(bases) == len(found) == 1:
        return goes_on(jobs, found[0])
    if not found:
        return f"nothing was submitted ({', '.join(bases)}: not at work on the cluster)"
    return f"{len(found)} of {len(bases)} jobs go on: {', '.join(job.id for job in found)}"


def _follow(jobs: Jobs, followed: Sequence[Job], reporter: Reporter) -> None:
    """Show one job after the other; they work side by side."""
    failed: list[JobEndedError] = []
    for job in followed:
        if len(followed) > 1:
            reporter.note(f"following {job.id}")
        try:
            follow(jobs, job, reporter)
        except JobEndedError as error:
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise JobEndedError("; ".join(map(str, failed)), failed[0].exit_code)
