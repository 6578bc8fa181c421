"""Sections of keys of ``gfs prune`` and ``gfs cut``, and which keys go with which network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

from gfs_dist.config.constraints import AtLeast
from gfs_dist.config.groups import TwoLayer
from gfs_dist.errors import ConfigError
from gfs_dist.pruning.widths.budget import KINDS
from gfs_dist.pruning.widths.budget import Budget as Limit
from gfs_dist.selection.stop import default_steps

if TYPE_CHECKING:
    from gfs_dist.config.commands import Prune

METHODS = {
    "squared": ("auto", "panel", "lazy", "streaming", "exhaustive"),
    "bce": ("auto", "screened", "exhaustive"),
}
"""Objectives of two-layer networks, and how each can be searched."""

DEEP_OBJECTIVES = ("least_squares", "layer_output", "fisher", "network_loss")
TARGETS = ("stream", "output")
EXPORTS = {
    "none": (),
    "program": ("program",),
    "onnx": ("onnx",),
    "all": ("program", "onnx"),
}
"""Values of ``export``, and the forms that each writes."""


@dataclass
class Budget:
    """How small a deep network becomes; shares as text, ``50%`` or ``0.5``."""

    macs: str | None
    params: str | None
    latency: str | None
    batch: Annotated[int | None, AtLeast(1)]
    keep: str | None
    widths: str | None
    tolerance: str | None
    round_to: Annotated[int | None, AtLeast(1)]
    trials: Annotated[int | None, AtLeast(1)]

    @property
    def limit(self) -> Limit:
        """As pruning takes it.

        Raises:
            ConfigError: none, several, or a value that is not accepted.
        """
        return Limit.parse(vars(self))


@dataclass
class Repair:
    """What is mended after a cut."""

    fold: bool | None
    refit: bool | None
    batch_norm: bool | None
    finetune: bool | None


@dataclass
class Calibration:
    """The images that moments are taken over."""

    samples: Annotated[int | None, AtLeast(1)]


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

DEEP_ONLY: Mapping[str, object] = {
    **{
        f"{section}.{key.name}": None
        for section, schema in (
            ("budget", Budget),
            ("repair", Repair),
            ("calibration", Calibration),
        )
        for key in fields(schema)
    },
    "coupled": False,
    "target": "stream",
    "candidates": None,
    "export": "none",
}
"""The same of two-layer networks."""

TWO_LAYER_DEFAULTS = {"objective": "squared", "replacement": True}

DEEP_DEFAULTS = {
    "objective": "least_squares",
    "replacement": False,
    "repair.fold": True,
    "repair.refit": True,
    "repair.finetune": False,
    "calibration.samples": 1024,
}


def settle(config: Prune) -> None:
    """Give the keys that are null what they mean for the kind of network."""
    deep = not isinstance(config.model, TwoLayer)
    for key, value in (DEEP_DEFAULTS if deep else TWO_LAYER_DEFAULTS).items():
        if attrgetter(key)(config) is None:
            section, _, name = key.rpartition(".")
            setattr(attrgetter(section)(config) if section else config, name, value)
    if not deep and config.steps is None:
        config.steps = default_steps(config.distinct)
    if deep:
        if config.repair.batch_norm is None:  # after a refit it does harm: see Repairs
            config.repair.batch_norm = not config.repair.refit
        if all(getattr(config.budget, kind) is None for kind in KINDS):
            config.budget.macs = "50%"
        settle_budget(config.budget)


def settle_budget(budget: Budget) -> None:
    """The same for the keys beside the one that says how small."""
    if budget.round_to is None:
        budget.round_to = 1
    if budget.batch is None and budget.latency is not None:
        budget.batch = 1


def check(config: Prune) -> None:
    """Refuse keys that do not go with the kind of network, or with each other.

    Raises:
        ConfigError: names the key, what was found and what is accepted.
    """
    if isinstance(config.model, TwoLayer):
        _refuse(config, DEEP_ONLY, "deep networks only")
        _check_choice("objective", config.objective, tuple(METHODS), "model=two_layer")
        methods = METHODS[str(config.objective)]
        _check_choice("method", config.method, methods, f"objective={config.objective}")
    else:
        _check_deep(config)


def _check_deep(config: Prune) -> None:
    name = f"model={config.model.name}"
    _refuse(config, TWO_LAYER_ONLY, "model=two_layer only")
    _check_choice("objective", config.objective, DEEP_OBJECTIVES, name)
    if config.objective == "least_squares":
        if config.replacement:
            raise ConfigError(
                "replacement: found true, accepted false with objective=least_squares"
            )
        _check_choice("weights", config.weights, ("uniform",), "objective=least_squares")
    if config.candidates is not None:
        _check_choice("objective", config.objective, ("network_loss",), "candidates")
    if config.checkpoint is None:
        raise ConfigError(
            f"checkpoint: has no default with {name}, accepted a pretrain run folder, a checkpoint "
            "or a state dict"
        )
    assert config.budget.limit  # parses


def _refuse(config: Prune, keys: Mapping[str, object], accepted: str) -> None:
    for key, nothing in keys.items():
        found: Any = attrgetter(key)(config)
        if found != nothing:
            shown = str(found).lower() if isinstance(found, bool) else found
            raise ConfigError(
                f"{key}: found {shown} with model={config.model.name}, accepted with {accepted}"
            )


def _check_choice(key: str, found: str | None, accepted: tuple[str, ...], where: str) -> None:
    if found not in accepted:
        raise ConfigError(f"{key}: found {found!r}, accepted {', '.join(accepted)} with {where}")
