"""Every command with its keys: which exist, of which type, in which range.

Default values and the line of help of each key are in conf/. A key is in the schema and in conf/,
or in neither (a test compares them). Jobs treat the classes as if they were frozen; only ``settle``
sets keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfs_dist.config.benchmark import Benchmark
from gfs_dist.config.cluster import Doctor, Down, Fetch, Logs, OfJob, OnCluster, Submit, Up
from gfs_dist.config.groups import (
    Computing,
    Data,
    Device,
    Job,
    Model,
    Positive,
    Runtime,
    Track,
    Train,
    TwoLayer,
    check_deep_training,
    check_training,
    check_workers,
)
from gfs_dist.config.prune import Cut, Prune, TwoLayerObjective
from gfs_dist.errors import ConfigError


@dataclass
class Pretrain(Computing):
    """``gfs pretrain``."""

    data: Data
    model: Model
    train: Train
    runtime: Runtime
    objective: TwoLayerObjective
    workers: Positive
    device: Device
    out: str
    resume: str | None
    track: Track = None

    def check(self) -> None:
        check_workers(self.workers, self.runtime)
        if isinstance(self.model, TwoLayer) and self.workers != 1:
            raise ConfigError(
                f"workers: found {self.workers}, accepted 1 with model={self.model.name}"
            )
        check_training(self.train, self.model)


@dataclass
class Finetune(Computing):
    """``gfs finetune PATH``."""

    path: str
    data: Data
    model: Model
    train: Train
    runtime: Runtime
    workers: Positive
    device: Device
    out: str
    resume: str | None
    track: Track = None

    def check(self) -> None:
        check_workers(self.workers, self.runtime)
        check_deep_training(self.train)


@dataclass
class Evaluate(Computing):
    """``gfs evaluate PATH``."""

    path: str
    data: Data
    model: Model
    objective: TwoLayerObjective
    device: Device


@dataclass
class Report(Job):
    """``gfs report RUN_DIR``."""

    path: str
    open: bool


COMMANDS: dict[str, type] = {
    "pretrain": Pretrain,
    "prune": Prune,
    "cut": Cut,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "benchmark": Benchmark,
    "report": Report,
    "up": Up,
    "down": Down,
    "submit": Submit,
    "list": OnCluster,
    "status": OfJob,
    "logs": Logs,
    "stop": OfJob,
    "fetch": Fetch,
    "doctor": Doctor,
}
