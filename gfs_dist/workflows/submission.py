"""From the words of ``gfs submit`` to what travels to a cluster."""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gfs_dist.config.cluster import Submit
from gfs_dist.config.commands import ON_CLUSTERS
from gfs_dist.config.compose import compose, sweep, to_yaml
from gfs_dist.config.groups import RayRuntime, value_of
from gfs_dist.config.paths import check_inputs, unseen_inputs, with_absolute_paths
from gfs_dist.errors import ConfigError
from gfs_dist.files import RunFolder
from gfs_dist.service.capacity import Demand
from gfs_dist.service.submission import Submission
from gfs_dist.urls import is_url
from gfs_dist.workflows.reporter import PlannedOnly, Reporter


@dataclass(frozen=True)
class Batch:
    """All jobs of one command line.

    Attributes:
        keys: what is not of the jobs themselves.
        configs: of each job, composed; paths absolute.
        default_out: whether no run folder was named.
    """

    keys: Submit
    configs: list[Any]
    default_out: bool

    @property
    def address(self) -> str | None:
        """The cluster that was named."""
        return getattr(self.configs[0].runtime, "address", None)


def read_batch(
    words: Sequence[str], config_dir: Path | None = None, *, multirun: bool = False
) -> Batch:
    """The jobs that a command line asks for: one for each combination with ``multirun``.

    Raises:
        ConfigError: as :func:`gfs_dist.config.compose.compose`.
    """
    names = {field.name for field in fields(Submit)}
    own = [word for word in words if word.partition("=")[0] in names]
    rest = [word for word in words if word not in own]
    keys: Submit = compose("submit", own)
    named = dict(word.partition("=")[::2] for word in rest)
    if "runtime" not in named and (keys.job != "benchmark" or named.get("suite") in ON_CLUSTERS):
        rest.append("runtime=ray")
    configs = (
        sweep(keys.job, rest, config_dir) if multirun else [compose(keys.job, rest, config_dir)]
    )
    default_out = not {"out", "resume"} & named.keys()
    return Batch(keys, [with_absolute_paths(config) for config in configs], default_out)


def prepare(batch: Batch, config: Any) -> Submission:
    """The submission of one job, whose identity does not depend on how the cluster is reached.

    A run folder that was not named is ``runs/ID`` here, so that the same words find it again.
    """
    config, job = copy.deepcopy(config), batch.keys.job
    resume = getattr(config, "resume", None)
    if resume is not None:
        config.resume = None
    if isinstance(config.runtime, RayRuntime):
        config.runtime.address = "auto"  # so the driver joins the cluster that it is on
    if batch.default_out:
        config.out = str(Path("runs").absolute())
    identity = f"{job}\n{resume}\n{to_yaml(config)}"
    factory = value_of(config, "model.factory") or value_of(config, "factory")
    workers = config.workers
    most = max(workers or [1]) if workers is None or isinstance(workers, list) else workers
    ranks = most + getattr(config.runtime, "spares", 0)
    demand = Demand(ranks, config.device, together=config.runtime.kind != "ray")
    submission = Submission(job, identity, "", resume or config.out, demand, factory)
    if batch.default_out:
        config.out = str(Path(config.out) / submission.base)
    if resume is not None:
        config.resume = resume
    return replace(submission, config_text=to_yaml(config), run_folder=resume or config.out)


class _Planner(Reporter):
    """Ends a job once its plan is known."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def plan(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        raise PlannedOnly


def plan(job: str, config: Any, *, own_cluster: bool) -> list[str]:
    """The job's own plan, which checks its inputs; or why it cannot be made here.

    Raises:
        InputError: the job would refuse its inputs.
        BudgetError: its budget cannot be met.
    """
    unseen = unseen_inputs(config)
    if unseen and own_cluster:
        raise ConfigError(f"{unseen[0]} does not exist")
    if unseen:
        return [f"plan      made on the cluster: {', '.join(unseen)} cannot be seen from here"]
    check_inputs(job, config)
    resume = getattr(config, "resume", None)
    key, place = ("out", config.out) if resume is None else ("resume", resume)
    if own_cluster and not is_url(place):
        RunFolder.check_writable(key, Path(place))
    if config.device == "cuda":
        import torch  # not before the words and paths of the job were found right

        if not torch.cuda.is_available():
            return ["plan      made on the cluster: here is no GPU"]
    planner = _Planner()
    with contextlib.suppress(PlannedOnly):
        importlib.import_module(f"gfs_dist.jobs.{job}").run(config, planner)
    return planner.lines
