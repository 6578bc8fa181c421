"""The keys of the commands that start, use and examine Ray clusters."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from gfs_dist.config.groups import Job, Positive

Submittable = Literal["pretrain", "prune", "finetune", "benchmark", "reproduce", "advise"]
SUBMITTED: tuple[str, ...] = typing.get_args(Submittable)
"""Jobs that can be submitted: those that write a run folder of their own."""


@dataclass
class Address:
    """Which cluster."""

    address: str | None


@dataclass
class Up(Job):
    """``gfs up``."""

    workers: Positive


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
    rank: Annotated[int, Ge(0)] | None


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

    job: Submittable
    wait: bool
    insecure: bool


@contextmanager
def unsent() -> Iterator[None]:
    """Nothing is submitted in here yet: an interruption says so."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("nothing was submitted") from error
