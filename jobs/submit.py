"""``gfs submit JOB``: compose and check here, let the cluster do it, follow it to its end."""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gfs_dist.errors import ConfigError
from gfs_dist.jobs.benchmark_keys import ON_CLUSTERS
from gfs_dist.jobs.cluster_keys import Submit
from gfs_dist.jobs.compose import compose, sweep, to_yaml
from gfs_dist.jobs.groups import Custom, RayRuntime
from gfs_dist.jobs.on_cluster import commands, connect, facts_of, follow
from gfs_dist.jobs.paths import unseen_inputs, with_absolute_paths
from gfs_dist.jobs.reporter import PlannedOnly, Reporter, Silent
from gfs_dist.service.capacity import Capacity, Demand
from gfs_dist.service.submission import Submission, send

AUTO = "auto"
"""The address by which a driver on a cluster joins it."""


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
        keys: of ``gfs submit`` itself.
        config: of the job, composed; paths absolute.
        default_out: whether no run folder was named.
    """

    keys: Submit
    config: Any
    default_out: bool


def requests(
    words: Sequence[str], config_dir: Path | None = None, *, multirun: bool = False
) -> list[Request]:
    """What a command line asks for; one for each combination of values with ``multirun``.

    Raises:
        ConfigError: as :func:`gfs_dist.jobs.compose.compose`.
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
    return [Request(keys, config, default_out) for config in configs]


def _spreads(job: str, words: Sequence[str]) -> bool:
    """Whether the job can use other machines than its driver's."""
    suites = [word.partition("=")[2] for word in words if word.startswith("suite=")]
    return job != "benchmark" or suites[-1:] in [[suite] for suite in ON_CLUSTERS]


def run(request: Request, reporter: Reporter) -> dict[str, Any]:
    """Submit one job and, unless told otherwise, follow it.

    Raises:
        ClusterError: no cluster, or the job is larger than it.
        JobEndedError: the job did not end well; has its exit code.
    """
    config, keys = request.config, request.keys
    address = getattr(config.runtime, "address", None)
    jobs = connect(address, keys.insecure)
    submission = prepare(request)
    capacity = Capacity.of(jobs.cluster.nodes())
    needs = capacity.check(submission.demand)
    reporter.plan(
        [
            *_plan(request, own_cluster=jobs.cluster.own),
            f"cluster   {jobs.cluster.url}: {needs}",
            f"folder    {submission.run_folder}",
        ]
    )
    sent = send(jobs, submission, capacity)
    if sent.shipped:
        reporter.note(f"code      {len(sent.shipped)} files of yours went along")
    reporter.note(HOW[sent.how].format(id=sent.job.id, out=sent.job.run_folder))
    reporter.next(commands(sent.job, address, insecure=keys.insecure))
    if not keys.wait or sent.how == "finished":
        return {**facts_of(sent.job), "how": sent.how}
    return facts_of(follow(jobs, sent.job, reporter, address, insecure=keys.insecure))


def prepare(request: Request) -> Submission:
    """What travels to the cluster, and what it is known by.

    A run folder that was not named is ``runs/ID`` here, so that the same words find it again.
    """
    config, job = copy.deepcopy(request.config), request.keys.job
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
    if request.config.device == "cuda" and not torch.cuda.is_available():
        return ["plan      made on the cluster: here is no GPU"]
    planner = _Planner()
    with contextlib.suppress(PlannedOnly):
        importlib.import_module(f"gfs_dist.jobs.{request.keys.job}").run(request.config, planner)
    return planner.lines
