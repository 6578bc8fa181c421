"""Every command with its keys: which exist, of which type, in which range.

Default values and the line of help of each key are in conf/. A key is in the schema and in conf/,
or in neither (a test compares them). Jobs treat the classes as if they were frozen; only ``settle``
sets keys.
"""

from __future__ import annotations

import time
import typing
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen

from gfs_dist.config.cluster import Doctor, Down, Fetch, Logs, OfJob, OnCluster, Submit, Up
from gfs_dist.config.groups import (
    Computing,
    Data,
    Device,
    Job,
    Model,
    Positive,
    Quality,
    Runtime,
    Text,
    Track,
    Train,
    TwoLayer,
    check_deep_training,
    check_training,
    check_workers,
    settled_quality,
    value_of,
)
from gfs_dist.config.prune import Advise, Cut, Prune, TwoLayerObjective
from gfs_dist.errors import ConfigError

Suite = Literal["select", "appendix_d", "scaling", "guard"]

SUITE_KEYS: dict[Suite, tuple[str, ...]] = {
    "select": (),
    "appendix_d": (
        "layers", "objectives", "workers", "image_size", "images", "batch", "steps", "candidates",
        "repeats",
    ),
    "scaling": ("workers", "neurons", "samples", "steps", "repeats"),
    "guard": ("repeats", "record", "margin"),
}  # fmt: skip
"""Keys that are null where a preset decides, by the suites that take them."""

Objective = Literal["network_loss", "layer_output", "least_squares"]
OBJECTIVES: tuple[str, ...] = typing.get_args(Objective)
ON_CLUSTERS = ("appendix_d", "scaling")


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
    stop: Literal["iterations", "enough"] | None = None

    def check(self) -> None:
        check_workers(self.workers, self.runtime)
        if isinstance(self.data, Text):
            raise ConfigError("data: found text, accepted images or numbers with gfs pretrain")
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
    quality: Quality | None

    def settle(self) -> None:
        self.quality = settled_quality(self.quality, self.data, self.model, self.path)


@dataclass
class Benchmark(Computing):
    """``gfs benchmark``."""

    suite: Suite
    preset: Literal["smoke", "paper", "cluster"]
    model: Model
    runtime: Runtime
    layers: list[str] | None
    objectives: Annotated[list[Objective], MinLen(1)] | None
    workers: Annotated[list[Positive], MinLen(1)] | None
    device: Device
    image_size: Positive | None
    images: Annotated[int, Ge(2)] | None
    batch: Positive | None
    steps: Positive | None
    candidates: Positive | None
    neurons: Annotated[list[Annotated[int, Ge(8)]], MinLen(1)] | None
    samples: Annotated[int, Ge(2)] | None
    repeats: Positive | None
    record: str | None
    margin: Annotated[float, Gt(1)] | None
    out: str

    def check(self) -> None:
        suite = f"suite={self.suite}"
        for key in dict.fromkeys(key for keys in SUITE_KEYS.values() for key in keys):
            if getattr(self, key) is not None and key not in SUITE_KEYS[self.suite]:
                suites = ", ".join(name for name, keys in SUITE_KEYS.items() if key in keys)
                raise ConfigError(f"{key}: goes with suite={suites}, found {suite}")
        kind, local = self.runtime.kind, self.suite in ("select", "guard")
        if self.preset == "cluster":
            if self.suite not in ON_CLUSTERS:
                raise ConfigError(f"preset: found cluster, accepted smoke, paper with {suite}")
            if kind != "ray":
                raise ConfigError(f"runtime: found {kind}, accepted ray with preset=cluster")
        if self.suite != "appendix_d" and self.model.name != "resnet34":
            raise ConfigError(f"model: found {self.model.name}, accepted with suite=appendix_d")
        if self.model.name in ("two_layer", "stored"):
            raise ConfigError(
                f"model: found {self.model.name}, accepted the name of a deep network, or custom"
            )
        if self.suite == "guard" and self.threads is not None:
            raise ConfigError(
                f"threads: found {self.threads}, accepted null (one a rank) with {suite}"
            )
        if local and self.device == "cuda":
            raise ConfigError(f"device: found cuda, accepted auto, cpu with {suite}")
        if local and kind != "local":
            raise ConfigError(f"runtime: found {kind}, accepted local with {suite}")


ExperimentName = Literal["figure1", "figure2", "figure3", "figure4", "table1", "table2", "theory"]
Preset = Literal["smoke", "cpu", "gpu", "full"]

EXPERIMENT_DATA: dict[str, tuple[str, ...]] = {
    "figure1": ("mnist", "digits"),
    "figure2": ("digits",),
    "figure3": ("digits",),
    "figure4": ("digits",),
    "table1": ("cifar10", "digits", "npz"),
    "table2": ("imagefolder", "npz", "digits"),
    "theory": ("digits", "mnist"),
}
"""The datasets of each experiment: the first is the default beyond ``preset=smoke``."""

EXPERIMENT_KEYS: dict[str, tuple[str, ...]] = {
    "trials": ("figure1", "table1", "table2", "theory"),
    "data.samples": ("table2",),  # any ImageNet there is
    "data.test_samples": ("figure1", "table1", "table2"),
    "data.prune_samples": ("table1", "table2"),
    "data.validation": ("figure1", "table1", "table2", "theory"),
}
"""Keys that are null where an experiment decides, by the experiments that take them."""


@dataclass
class Reproduce(Computing):
    """``gfs reproduce``."""

    experiment: ExperimentName
    preset: Preset
    data: Data
    runtime: Runtime
    trials: Positive | None
    workers: Positive
    device: Device
    out: str
    resume: str | None

    def check(self) -> None:
        check_workers(self.workers, self.runtime)
        accepted = EXPERIMENT_DATA[self.experiment]
        if self.data.name not in accepted:
            raise ConfigError(
                f"data: found {self.data.name}, accepted {', '.join(accepted)} with "
                f"experiment={self.experiment}"
            )
        if self.resume is not None:  # stored by a version that took keys without effect
            return
        for key, experiments in EXPERIMENT_KEYS.items():
            found = value_of(self, key)
            if found is not None and self.experiment not in experiments:
                raise ConfigError(
                    f"{key}: found {found} with experiment={self.experiment}, which it would not "
                    f"change, accepted with experiment={', '.join(experiments)}"
                )
        if self.data.seed != self.seed:
            raise ConfigError(
                f"data.seed: found {self.data.seed}, accepted {self.seed}, as seed has it, from "
                "which the seeds of all trials follow"
            )


@dataclass
class Report(Job):
    """``gfs report RUN_DIR...``."""

    path: str
    others: list[str] | None
    out: str | None
    open: bool

    def settle(self) -> None:
        if self.others and self.out is None:
            self.out = time.strftime("runs/%Y-%m-%d_%H-%M-%S_report")


COMMANDS: dict[str, type] = {
    "pretrain": Pretrain,
    "prune": Prune,
    "cut": Cut,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "benchmark": Benchmark,
    "reproduce": Reproduce,
    "advise": Advise,
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
