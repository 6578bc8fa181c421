"""The schema of the commands that start, use and examine Ray clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from gfs_dist.config.constraints import Among, AtLeast
from gfs_dist.config.job import Job

SUBMITTED = ("pretrain", "prune", "finetune", "benchmark")
"""Jobs that can be submitted: those that write a run folder of their own."""


@dataclass
class Address:
    """Which cluster."""

    address: str | None


@dataclass
class Up(Job):
    """``gfs up``."""

    workers: Annotated[int, AtLeast(1)]


@dataclass
class Down(Job):
    """``gfs down``."""


@dataclass
class OnCluster(Job):
    """A command that talks to a cluster; ``gfs list`` has nothing else."""

    runtime: Address
    insecure: bool


@dataclass
class OfJob(OnCluster):
    """``gfs status ID`` and ``gfs stop ID``."""

    id: str


@dataclass
class Logs(OfJob):
    """``gfs logs ID``."""

    follow: bool
    rank: Annotated[int | None, AtLeast(0)]


@dataclass
class Fetch(OfJob):
    """``gfs fetch ID [DIR]``."""

    into: str | None


@dataclass
class Doctor(OnCluster):
    """``gfs doctor``."""

    out: str


@dataclass
class Submit(Job):
    """``gfs submit JOB``: what is not of the job itself."""

    job: Annotated[str, Among(*SUBMITTED)]
    wait: bool
    insecure: bool
