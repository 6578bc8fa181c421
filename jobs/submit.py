"""``gfs submit JOB``: compose and check here, let the cluster do it, follow it to its end."""

from __future__ import annotations

import contextlib
import copy
import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gfs_dist.config.benchmark import ON_CLUSTERS
from gfs_dist.config.cluster import Submit, unsent
from gfs_dist.config.compose import compose, sweep, to_yaml
from gfs_dist.config.groups import Custom, RayRuntime
from gfs_dist.config.paths import check_inputs, unseen_inputs, with_absolute_paths
from gfs_dist.errors import ConfigError, GfsError, JobEndedError
from gfs_dist.files import RunFolder
from gfs_dist.service.capacity import Capacity, Demand
from gfs_dist.service.jobs import Job, Jobs
from gfs_dist.service.submission import Sent, Submission, send
from gfs_dist.urls import is_url
from gfs_dist.workflows.follow_job import commands, connect, facts_of, follow, goes_on
from gfs_dist.workflows.reporter import PlannedOnly, Reporter, Silent

AUTO = "auto"
"""The address by which a driver on a cluster joins it."""

ASK_AGAIN_S = (0.0, 1.0, 1.0)
"""Pauses before each question whether a job arrived, after an interruption."""

HOW = {
    "submitted": "submitted as {id}",
    "resumed": "submitted as {id}, which goes on in {out}",
    "attached": "is at work already, as {id}",
    "finished": "has finished already, as {id}; to do it again name another folder: out=DIR",
}


@dataclass(frozen=True)
class Request:
    """One job to submit.

    Attributes:
        job: the command.
        config: of the job, composed; paths absolute.
        default_out: whether no run folder was named.
    """

    job: str
    config: Any
    default_out: bool


@dataclass(frozen=True)
class Batch:
    """All jobs of one command line."""

    keys: Submit
    requests: list[Request]

    @property
    def address(self) -> str | None:
        """The cluster that was named."""
        return getattr(self.requests[0].config.runtime, "address", None)


def batch(words: Sequence[str], config_dir: Path | None = None, *, multirun: bool = False) -> Batch:
    """What a command line asks for; a job for each combination of values with ``multirun``.

    Raises:
        ConfigError: as :func:`gfs_dist.config.compose.compose`.
    """
    own = [word for word in words if word.partition("=")[0] in Submit.__dataclass_fields__]
    rest = [word for word in words if word not in own]
    keys = compose("submit", own)
    named = [word.partition("=")[0] for word in rest]
    if "runtime" not in named and _spreads(keys.job, rest):
        rest.append("runtime=ray")
    make = sweep if multirun else lambda *of: [compose(*of)]
    configs = map(with_absolute_paths, make(keys.job, rest, config_dir))
    default_out = "out" not in named and "resume" not in named
    return Batch(keys, [Request(keys.job, config, default_out) for config in configs])


def _spreads(job: str, words: Sequence[str]) -> bool:
    """Whether the job can use other machines than its driver's."""
    suites = [word.partition("=")[2] for word in words if word.startswith("suite=")]
    return job != "benchmark" or suites[-1:] in [[suite] for suite in ON_CLUSTERS]


def run(batch: Batch, reporter: Reporter) -> dict[str, Any]:
    """Submit jobs and, unless told otherwise, follow them to their end.

    Raises:
        ClusterError: no cluster, or a job is larger than it; nothing is submitted then.
        JobEndedError: a job did not end well; has its exit code.
    """
    keys, address = batch.keys, batch.address
    with unsent():
        jobs = connect(address, keys.insecure)
        capacity = Capacity.of(jobs.cluster.nodes())
        submissions = [prepare(request) for request in batch.requests]
        needs = [capacity.check(submission.demand) for submission in submissions]
        plans = [_plan(request, own_cluster=jobs.cluster.own) for request in batch.requests]
        lines: list[str] = []
        for submission, need, plan in zip(submissions, needs, plans, strict=True):
            lines += [*plan, f"cluster   {jobs.cluster.url}: {need}"]
            lines += [f"folder    {submission.run_folder}"]
        reporter.plan(lines)
    sent = []
    try:
        for submission in submissions:
            sent.append(send(jobs, submission, capacity))
            _tell(sent[-1], reporter)
            reporter.next(commands(sent[-1].job, address, insecure=keys.insecure))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_what_was_sent(jobs, submissions, batch)) from error
    answers = [{**facts_of(one.job), "how": one.how} for one in sent]
    if keys.wait:
        followed = [one.job for one in sent if one.how != "finished"]
        _follow(jobs, followed, reporter, address, insecure=keys.insecure)
    return answers[0] if len(answers) == 1 else {"runs": answers}


def _what_was_sent(jobs: Jobs, submissions: Sequence[Submission], batch: Batch) -> str:
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
        return goes_on(found[0], batch.address, insecure=batch.keys.insecure)
    if not found:
        return f"nothing was submitted ({', '.join(bases)}: not at work on the cluster)"
    return f"{len(found)} of {len(bases)} jobs go on: {', '.join(job.id for job in found)}"


def _tell(sent: Sent, reporter: Reporter) -> None:
    if sent.shipped:
        reporter.note(f"code      {len(sent.shipped)} files of yours went along")
    reporter.note(HOW[sent.how].format(id=sent.job.id, out=sent.job.run_folder))


def _follow(
    jobs: Jobs, followed: Sequence[Job], reporter: Reporter, address: str | None, *, insecure: bool
) -> None:
    """Show one job after the other; they work side by side."""
    failed: list[JobEndedError] = []
    for job in followed:
        if len(followed) > 1:
            reporter.note(f"following {job.id}")
        try:
            follow(jobs, job, reporter, address, insecure=insecure)
        except JobEndedError as error:
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise JobEndedError("; ".join(map(str, failed)), failed[0].exit_code)


def prepare(request: Request) -> Submission:
    """What travels to the cluster, and what it is known by.

    A run folder that was not named is ``runs/ID`` here, so that the same words find it again.
    """
    config, job = copy.deepcopy(request.config), request.job
    resume = getattr(config, "resume", None)
    if resume is not None:
        config.resume = None
    if isinstance(config.runtime, RayRuntime):
        config.runtime.address = AUTO  # what it is for the driver, however it is reached from here
    if request.default_out:
        config.out = str(Path("runs").absolute())
    demand = _demand(config)
    identity = f"{job}\n{resume}\n{to_yaml(config)}"
    factory = config.model.factory if isinstance(config.model, Custom) else None
    submission = Submission(job, identity, "", resume or config.out, demand, factory)
    if request.default_out:
        config.out = str(Path(config.out) / submission.base)
    if resume is not None:
        config.resume = resume
    return replace(submission, config_text=to_yaml(config), run_folder=resume or config.out)


def _demand(config: Any) -> Demand:
    workers = config.workers
    most = max(workers or [1]) if workers is None or isinstance(workers, list) else workers
    spares = getattr(config.runtime, "spares", 0)
    return Demand(most + spares, config.device, together=config.runtime.kind != "ray")


class _Planner(Silent):
    """Ends a job once its plan is known."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def plan(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        raise PlannedOnly


def _plan(request: Request, *, own_cluster: bool) -> list[str]:
    """The job's own plan, which checks its inputs; in words why not where it cannot be made here.

    Raises:
        InputError: the job would refuse its inputs.
        BudgetError: its budget cannot be met.
    """
    unseen = unseen_inputs(request.config)
    if unseen and own_cluster:
        raise ConfigError(f"{unseen[0]} does not exist")
    if unseen:
        return [f"plan      made on the cluster: {', '.join(unseen)} cannot be seen from here"]
    check_inputs(request.job, request.config)
    resume = getattr(request.config, "resume", None)
    key, place = ("out", request.config.out) if resume is None else ("resume", resume)
    if own_cluster and not is_url(place):
        RunFolder.check_writable(key, Path(place))
    if request.config.device == "cuda":
        import torch  # not before the words and paths of the job were found right

        if not torch.cuda.is_available():
            return ["plan      made on the cluster: here is no GPU"]
    planner = _Planner()
    with contextlib.suppress(PlannedOnly):
        importlib.import_module(f"gfs_dist.jobs.{request.job}").run(request.config, planner)
    return planner.lines
