"""The keys of ``gfs prune`` and ``gfs cut``, and which of them go with which network."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from gfs_dist.config.groups import (
    Computing,
    Custom,
    Data,
    Device,
    HuggingFace,
    Job,
    Model,
    Positive,
    Quality,
    Runtime,
    Text,
    Track,
    Train,
    TwoLayer,
    check_training,
    check_workers,
    set_value,
    settled_quality,
    value_of,
)
from gfs_dist.errors import ConfigError
from gfs_dist.pruning.repair import STREAM_STEPS
from gfs_dist.pruning.widths.budget import KINDS
from gfs_dist.pruning.widths.budget import Budget as Limit
from gfs_dist.selection.stop import DEFAULT_STEPS

TwoLayerObjective = Literal["squared", "bce"]
DeepObjective = Literal["least_squares", "layer_output", "fisher", "network_loss"]

SquaredMethod = Literal["auto", "panel", "lazy", "streaming", "exhaustive"]
BceMethod = Literal["auto", "screened", "exhaustive"]
LeastSquaresMethod = Literal["auto", "elimination", "exhaustive"]
METHODS = {
    "squared": typing.get_args(SquaredMethod),
    "bce": typing.get_args(BceMethod),
    "least_squares": typing.get_args(LeastSquaresMethod),
}
"""How each objective of a two-layer network can be searched."""

Export = Literal["none", "program", "onnx", "all"]
EXPORTS: dict[Export, tuple[str, ...]] = {
    "none": (),
    "program": ("program",),
    "onnx": ("onnx",),
    "all": ("program", "onnx"),
}
"""The forms that each value of ``export`` writes."""


@dataclass
class Budget:
    """How small a deep network becomes; shares as text, ``50%`` or ``0.5``."""

    macs: str | None
    params: str | None
    latency: str | None
    memory: str | None
    batch: Positive | None
    keep: str | None
    widths: str | None
    tolerance: str | None
    round_to: Positive | None
    trials: Positive | None
    uniform: bool | None

    @property
    def limit(self) -> Limit:
        """As pruning takes it.

        Raises:
            ConfigError: none, several, or a value that is not accepted.
        """
        return Limit.parse(vars(self))

    def settle(self) -> None:
        """Replace null of the keys beside the one that says how small."""
        if self.round_to is None:
            self.round_to = 1
        if self.uniform is None:
            self.uniform = False
        if self.batch is None and (self.latency or self.memory) is not None:
            self.batch = 1


@dataclass
class Repair:
    """What is mended after a cut."""

    fold: bool | None
    refit: bool | None
    reselect: bool | None
    streams: bool | None
    steps: Positive | None
    batch_norm: bool | None
    finetune: bool | None

    def settle_streams(self) -> None:
        """Replace null of ``steps``.

        Raises:
            ConfigError: steps of a repair that was not asked for.
        """
        if self.steps is not None and not self.streams:
            raise ConfigError(
                f"repair.steps: found {self.steps}, accepted with repair.streams=true only"
            )
        if self.streams and self.steps is None:
            self.steps = STREAM_STEPS


@dataclass
class Calibration:
    """The images that moments are taken over."""

    samples: Positive | None


TWO_LAYER_ONLY: Mapping[str, object] = {
    "distinct": None,
    "tolerance": None,
    "method": "auto",
    "verify": False,
    "partition": "contiguous",
    "graph": "none",
    "precision": "float64",
}
"""Keys that deep networks do not take, with the values that ask for nothing."""

DEEP_SECTIONS = {"budget": Budget, "repair": Repair, "calibration": Calibration}
DEEP_ONLY: Mapping[str, object] = {
    **{f"{name}.{key.name}": None for name, of in DEEP_SECTIONS.items() for key in fields(of)},
    "coupled": False,
    "target": "auto",
    "candidates": None,
    "export": "none",
    "quality": None,
}
"""The same of two-layer networks."""

TWO_LAYER_DEFAULTS = {"objective": "squared", "replacement": True}

DEEP_DEFAULTS = {
    "objective": "least_squares",
    "replacement": False,
    "repair.fold": True,
    "repair.refit": True,
    "repair.streams": False,
    "repair.finetune": False,
    "calibration.samples": 1024,
}


@dataclass
class Prune(Computing):
    """``gfs prune``."""

    data: Data
    model: Model
    train: Train
    runtime: Runtime
    checkpoint: str | None
    objective: Literal[TwoLayerObjective, DeepObjective] | None
    weights: Literal["uniform", "line_search"]
    budget: Budget
    repair: Repair
    calibration: Calibration
    coupled: bool
    target: Literal["auto", "stream", "output", "own", "blend"]
    candidates: Positive | None
    export: Export
    steps: Positive | None
    distinct: Positive | None
    tolerance: Annotated[float, Ge(0)] | None
    replacement: bool | None
    method: Literal[SquaredMethod, BceMethod, LeastSquaresMethod]
    verify: bool
    workers: Positive
    device: Device
    partition: str
    graph: str
    precision: Literal["float64", "float32"]
    out: str
    resume: str | None
    track: Track = None
    quality: Quality | None = None

    def settle(self) -> None:
        deep = not isinstance(self.model, TwoLayer)
        if isinstance(self.model, HuggingFace) and self.checkpoint is None:
            self.checkpoint = self.model.path
        if deep:
            path = self.checkpoint
            self.quality = settled_quality(self.quality, self.data, self.model, path)
        if self.objective == "least_squares" and self.replacement is None:
            self.replacement = False
        for key, value in (DEEP_DEFAULTS if deep else TWO_LAYER_DEFAULTS).items():
            if value_of(self, key) is None:
                set_value(self, key, value)
        if not deep and self.steps is None and self.distinct is None:
            self.steps = DEFAULT_STEPS
        if deep:
            if self.repair.reselect is None:
                self.repair.reselect = self._can_reselect
            self.repair.settle_streams()
            if self.repair.batch_norm is None:  # after a fit it does harm: see Repairs
                self.repair.batch_norm = not (self.repair.refit or self.repair.streams)
            if all(getattr(self.budget, kind) is None for kind in KINDS):
                self.budget.macs = "50%"
            self.budget.settle()

    def check(self) -> None:
        if isinstance(self.model, TwoLayer):
            if self.target == "stream":  # the default that older runs were stored with
                self.target = "auto"
            self._refuse(DEEP_ONLY, "deep networks only")
            self._check_choice("objective", tuple(METHODS), "model=two_layer")
            self._check_choice(
                "method", METHODS[str(self.objective)], f"objective={self.objective}"
            )
        else:
            self._check_deep()
        if self.objective == "least_squares":
            if self.replacement:
                raise ConfigError(
                    "replacement: found true, accepted false with objective=least_squares"
                )
            self._check_choice("weights", ("uniform",), "objective=least_squares")
        check_workers(self.workers, self.runtime)
        check_training(self.train, self.model)

    @property
    def _can_reselect(self) -> bool:
        return self.objective == "least_squares" and bool(self.repair.refit)

    def _check_deep(self) -> None:
        name = f"model={self.model.name}"
        self._refuse(TWO_LAYER_ONLY, "model=two_layer only")
        self._check_choice("objective", typing.get_args(DeepObjective), name)
        if self.candidates is not None:
            self._check_choice("objective", ("network_loss",), "candidates")
        if self.repair.reselect and not self._can_reselect:
            raise ConfigError(
                "repair.reselect: found true, accepted with objective=least_squares and "
                "repair.refit=true only"
            )
        if isinstance(self.model, HuggingFace) and self.checkpoint != self.model.path:
            raise ConfigError(
                f"checkpoint: found {self.checkpoint}, accepted null with model=hf, whose folder "
                "holds its weights"
            )
        if isinstance(self.data, Text) and self.repair.finetune:
            raise ConfigError("repair.finetune: found true, accepted false with data=text")
        if self.checkpoint is None and not isinstance(self.model, Custom):
            raise ConfigError(
                f"checkpoint: has no default with {name}, accepted a pretrain run folder, a "
                "checkpoint or a state dict"
            )
        assert self.budget.limit  # parses

    def _refuse(self, keys: Mapping[str, object], accepted: str) -> None:
        for key, nothing in keys.items():
            found = value_of(self, key)
            if found != nothing:
                shown = str(found).lower() if isinstance(found, bool) else found
                raise ConfigError(
                    f"{key}: found {shown} with model={self.model.name}, accepted with {accepted}"
                )

    def _check_choice(self, key: str, accepted: tuple[str, ...], where: str) -> None:
        found = getattr(self, key)
        if found not in accepted:
            raise ConfigError(
                f"{key}: found {found!r}, accepted {', '.join(accepted)} with {where}"
            )


@dataclass
class CutRepair:
    """What ``gfs cut`` may mend otherwise than its run did."""

    streams: bool | None
    steps: Positive | None


@dataclass
class Cut(Job):
    """``gfs cut RUN_DIR``."""

    path: str
    name: str | None
    factory: str | None
    budget: Budget
    repair: CutRepair
    export: Export | None
    device: Device
    threads: Positive | None

    def settle(self) -> None:
        self.budget.settle()

    def check(self) -> None:
        assert self.budget.limit  # parses


@dataclass
class Advise(Job):
    """``gfs advise RUN_DIR``."""

    path: str
    factory: str | None
    objective: Literal[TwoLayerObjective, DeepObjective] | None
    weights: Literal["uniform", "line_search"]
    steps: Positive | None
    distinct: Positive | None
    budget: Budget
    calibration: Calibration
    prune_samples: Annotated[int, Ge(2)] | None
    threshold: Annotated[float, Gt(0), Lt(100)]
    runtime: Runtime
    workers: Positive
    device: Device
    threads: Positive | None
    out: str
    resume: str | None
    track: Track = None

    def check(self) -> None:
        check_workers(self.workers, self.runtime)
