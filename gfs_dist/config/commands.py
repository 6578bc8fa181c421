"""The schema of every command: which keys exist, of which type, in which range.

Default values and the line of help of each key are in conf/. A key is of the schema and of conf/,
or of neither (a test compares them). The classes are not frozen because OmegaConf treats a frozen
schema as read-only and then refuses every override; jobs treat them so all the same.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated

from gfs_dist.config import benchmark as benchmark_keys
from gfs_dist.config import cluster as cluster_keys
from gfs_dist.config import prune as prune_keys
from gfs_dist.config.constraints import Above, Among, AtLeast, Each
from gfs_dist.config.groups import (
    CATALOG,
    Cifar10,
    Custom,
    Data,
    Deep,
    Digits,
    GradientDescent,
    ImageFolder,
    LocalRuntime,
    Mnist,
    Model,
    NoRuntime,
    Npz,
    RayRuntime,
    Runtime,
    Seed,
    Sgd,
    Stored,
    Synthetic,
    Train,
    TwoLayer,
)
from gfs_dist.config.job import Job
from gfs_dist.config.prune import (
    DEEP_OBJECTIVES,
    EXPORTS,
    METHODS,
    TARGETS,
    Budget,
    Calibration,
    Repair,
)
from gfs_dist.errors import ConfigError

Device = Annotated[str, Among("auto", "cpu", "cuda")]
Objective = Annotated[str, Among("squared", "bce")]
Track = Annotated[str | None, Among("tensorboard", "mlflow")]
Method = Annotated[str, Among(*dict.fromkeys(itertools.chain(*METHODS.values())))]


@dataclass
class _Computing(Job):
    """A command that computes."""

    seed: Seed
    threads: Annotated[int | None, AtLeast(1)]


@dataclass
class Pretrain(_Computing):
    """``gfs pretrain``."""

    data: Data
    model: Model
    train: Train
    runtime: Runtime
    objective: Objective
    workers: Annotated[int, AtLeast(1)]
    device: Device
    out: str
    resume: str | None
    track: Track = None

    def check(self) -> None:
        check_workers(self)
        if isinstance(self.model, TwoLayer):
            if self.workers != 1:
                raise ConfigError(
                    f"workers: found {self.workers}, accepted 1 with model={self.model.name}"
                )
            _check_two_layer_training(self.train)
        else:
            _check_deep_training(self.train, f" with model={self.model.name}")


@dataclass
class Finetune(_Computing):
    """``gfs finetune PATH``."""

    path: str
    data: Data
    model: Model
    train: Train
    runtime: Runtime
    workers: Annotated[int, AtLeast(1)]
    device: Device
    out: str
    resume: str | None
    track: Track = None

    def check(self) -> None:
        check_workers(self)
        _check_deep_training(self.train)


@dataclass
class Prune(_Computing):
    """``gfs prune``."""

    data: Data
    model: Model
    train: Train
    runtime: Runtime
    checkpoint: str | None
    objective: Annotated[str | None, Among(*METHODS, *DEEP_OBJECTIVES)]
    weights: Annotated[str, Among("uniform", "line_search")]
    budget: Budget
    repair: Repair
    calibration: Calibration
    coupled: bool
    target: Annotated[str, Among(*TARGETS)]
    candidates: Annotated[int | None, AtLeast(1)]
    export: Annotated[str, Among(*EXPORTS)]
    steps: Annotated[int | None, AtLeast(1)]
    distinct: Annotated[int | None, AtLeast(1)]
    tolerance: Annotated[float | None, AtLeast(0)]
    replacement: bool | None
    method: Method
    verify: bool
    workers: Annotated[int, AtLeast(1)]
    device: Device
    partition: str
    graph: str
    precision: Annotated[str, Among("float64", "float32")]
    out: str
    resume: str | None
    track: Track = None

    def settle(self) -> None:
        prune_keys.settle(self)

    def check(self) -> None:
        prune_keys.check(self)
        check_workers(self)
        if isinstance(self.model, TwoLayer):
            _check_two_layer_training(self.train)
        else:
            _check_deep_training(self.train, f" with model={self.model.name}")


@dataclass
class Cut(Job):
    """``gfs cut RUN_DIR``."""

    path: str
    name: str | None
    factory: str | None
    budget: Budget
    export: Annotated[str | None, Among(*EXPORTS)]
    device: Device
    threads: Annotated[int | None, AtLeast(1)]

    def settle(self) -> None:
        prune_keys.settle_budget(self.budget)

    def check(self) -> None:
        assert self.budget.limit  # parses


@dataclass
class Evaluate(_Computing):
    """``gfs evaluate PATH``."""

    path: str
    data: Data
    model: Model
    objective: Objective
    device: Device


@dataclass
class Benchmark(_Computing):
    """``gfs benchmark``."""

    suite: Annotated[str, Among(*benchmark_keys.KEYS)]
    preset: Annotated[str, Among(*benchmark_keys.PRESETS)]
    model: Model
    runtime: Runtime
    layers: list[str] | None
    objectives: Annotated[list[str] | None, Each(Among(*benchmark_keys.OBJECTIVES))]
    workers: Annotated[list[int] | None, Each(AtLeast(1))]
    device: Device
    image_size: Annotated[int | None, AtLeast(1)]
    images: Annotated[int | None, AtLeast(2)]
    batch: Annotated[int | None, AtLeast(1)]
    steps: Annotated[int | None, AtLeast(1)]
    candidates: Annotated[int | None, AtLeast(1)]
    neurons: Annotated[list[int] | None, Each(AtLeast(8))]
    samples: Annotated[int | None, AtLeast(2)]
    repeats: Annotated[int | None, AtLeast(1)]
    record: str | None
    margin: Annotated[float | None, Above(1)]
    out: str

    def check(self) -> None:
        benchmark_keys.check(self)


@dataclass
class Report(Job):
    """``gfs report RUN_DIR``."""

    path: str
    open: bool


def check_workers(config: Pretrain | Finetune | Prune) -> None:
    """Refuse more ranks than this process can be.

    Raises:
        ConfigError: ``workers`` does not go with ``runtime=none``.
    """
    if config.runtime.kind == "none" and config.workers != 1:
        raise ConfigError(f"workers: found {config.workers}, accepted 1 with runtime=none")


def _check_two_layer_training(train: Train) -> None:
    for key in ("weight_decay", "augment", "amp"):
        if getattr(train, key, None):
            raise ConfigError(f"train.{key}: accepted with deep networks, not model=two_layer")
    if train.lr is not None and train.step_share is not None:
        raise ConfigError(
            f"train.step_share: found {train.step_share:g} with train.lr={train.lr:g}, accepted "
            "one of the two"
        )


def _check_deep_training(train: Train, where: str = "") -> None:
    if not isinstance(train, Sgd):
        raise ConfigError(f"train: found {train.method}, accepted sgd{where}")
    if train.step_share is not None:
        raise ConfigError("train.step_share: accepted with model=two_layer, not deep networks")


COMMANDS: dict[str, type[Job]] = {
    "pretrain": Pretrain,
    "prune": Prune,
    "cut": Cut,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "benchmark": Benchmark,
    "report": Report,
    "up": cluster_keys.Up,
    "down": cluster_keys.Down,
    "submit": cluster_keys.Submit,
    "list": cluster_keys.OnCluster,
    "status": cluster_keys.OfJob,
    "logs": cluster_keys.Logs,
    "stop": cluster_keys.OfJob,
    "fetch": cluster_keys.Fetch,
    "doctor": cluster_keys.Doctor,
}

GROUPS: dict[str, dict[str, type]] = {
    "data": {
        "digits": Digits,
        "mnist": Mnist,
        "cifar10": Cifar10,
        "imagefolder": ImageFolder,
        "npz": Npz,
        "synthetic": Synthetic,
    },
    "model": {
        "two_layer": TwoLayer,
        **dict.fromkeys(CATALOG, Deep),
        "custom": Custom,
        "stored": Stored,
    },
    "train": {"gd": GradientDescent, "sgd": Sgd},
    "runtime": {"ray": RayRuntime, "local": LocalRuntime, "none": NoRuntime},
}
"""The schema of each option: option NAME of a group is conf/GROUP/NAME.yaml."""

OPTION_KEY = {"data": "name", "model": "name", "train": "method", "runtime": "kind"}
"""The key of a group that holds the option's name."""

CHANGEABLE = ("workers", "runtime", "device", "threads", "export")
"""Keys that may change when a run is resumed."""
