"""What ``gfs prune`` and ``gfs cut`` are about to do to a deep network: read, checked, in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.config import commands as schema
from gfs_dist.config.prune import EXPORTS
from gfs_dist.data import Images
from gfs_dist.data.balanced import calibration_rows
from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.files import checkpoint
from gfs_dist.files.find import find_checkpoints
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.feasible import check_feasible
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.workflows import plan_text as deep_words
from gfs_dist.workflows.images_and_networks import (
    architecture_of,
    check_fits,
    origin_of,
    read_images,
    read_network,
)
from gfs_dist.workflows.measures import Measures
from gfs_dist.workflows.process import check_device, local_device
from gfs_dist.workflows.two_layer import data_spec


@dataclass(frozen=True)
class DeepPlan:
    """A pruning job whose inputs were read and fit each other.

    Attributes:
        config: as composed.
        places: iteration and place of each checkpoint.
        measures: data, calibration images, and where networks are measured.
        architecture: what the checkpoints say of their network, or the keys ``model.*``.
        structure: what can be removed, the same in all checkpoints.
        budget: can be met.
        lines: the plan in words.
    """

    config: schema.Prune
    places: list[tuple[int, Path]]
    measures: Measures
    architecture: dict[str, Any]
    structure: Structure
    budget: Budget
    lines: list[str]

    @property
    def images(self) -> Images:
        """Both splits."""
        return self.measures.images

    @property
    def channels(self) -> dict[str, int]:
        """Candidates of each layer."""
        return {layer.name: layer.num_candidates for layer in self.structure.layers}

    @property
    def settings(self) -> Settings:
        """How layers are searched."""
        return settings(self.config)

    @property
    def origin(self) -> dict[str, Any] | None:
        """What made the networks, as :func:`gfs_dist.networks.save` takes it."""
        return origin_of(self.architecture)

    def network(self, place: Path) -> nn.Module:
        """The network of one checkpoint, in float32 as the images are."""
        return read_float32(place, self.config.model, self.images)

    def runtime_spec(self, logs: Path) -> RuntimeSpec:
        """The ranks of this job."""
        known = {k: v for k, v in vars(self.config.runtime).items() if k != "kind"}
        return RuntimeSpec(
            kind=self.config.runtime.kind,
            workers=self.config.workers,
            device=self.config.device,
            threads=self.config.threads,
            log_folder=str(logs),
            **known,
        )


def make_plan(
    config: schema.Prune, budget: Budget, places: list[tuple[int, Path]], *, searched: bool = False
) -> DeepPlan:
    """Read and check everything the job needs; nothing is written.

    Args:
        config: of the run.
        budget: of this cut.
        places: the checkpoints; all hold the same network with other weights.
        searched: the paths are there already.

    Raises:
        InputError: data, checkpoint, widths that do not fit, outputs that are no numbers,
            nothing can be pruned, or packages that ``export`` needs are missing.
        BudgetError: the budget cannot be met.
    """
    check_device(config)
    if "onnx" in EXPORTS[config.export]:
        networks.require_onnx("export")
    images = read_images(data_spec(config.data))
    samples = config.calibration.samples
    assert samples is not None, "settled"
    rows = calibration_rows(images.labels_train, samples, config.seed)
    device = local_device("cpu" if config.device == "cpu" else "auto")
    measures = Measures(images, rows, device)
    for _, place in places:
        network = read_float32(place, config.model, images)
        check_fits(network, images, str(place))
        networks.classify(network, itertools.islice(measures.batches(), 1))
    architecture = architecture_of(places[-1][1], config.model, images)
    with rehearsal(network, measures, settings(config)) as pruner:
        _refuse_finetuning(config, pruner)
        check_feasible(pruner, budget)
        lines = [
            *deep_words.inputs(config, measures, architecture, pruner, places),
            *deep_words.layers(pruner.structure),
            *([] if searched else [deep_words.search(config, measures, pruner)]),
            *deep_words.work(config, budget, pruner, measures),
            "time      told once the first steps are measured",
        ]
        return DeepPlan(config, places, measures, architecture, pruner.structure, budget, lines)


def checkpoints(config: schema.Prune) -> list[tuple[int, Path]]:
    """Iteration and place of each checkpoint of a deep run.

    Raises:
        CheckpointError: there are none.
    """
    assert config.checkpoint is not None, "checked"
    return find_checkpoints(config.checkpoint)


def settings(config: schema.Prune) -> Settings:
    """How layers are searched, as the core takes it."""
    assert config.objective is not None and config.replacement is not None, "settled"
    return Settings(
        objective=config.objective,
        weights=config.weights,
        replacement=config.replacement,
        coupled=config.coupled,
        target=config.target,
        candidates=config.candidates,
        steps=config.steps,
        seed=config.seed,
    )


def read_float32(place: Path, model: schema.Model, images: Images) -> nn.Module:
    """One deep network, evaluating, in float32 as images are.

    Raises:
        CheckpointError: see :func:`read_network`; or it has two layers.
    """
    if architecture_of(place, model, images).get("model") == "two_layer":
        raise CheckpointError(
            f"checkpoint: {place} is a two-layer network, accepted with model={model.name} are "
            "deep ones"
        )
    return read_network(place, model, images).to(torch.float32)


@contextmanager
def rehearsal(network: nn.Module, measures: Measures, how: Settings) -> Iterator[Pruner]:
    """A pruner of two samples in a folder of its own, for what does not depend on samples."""
    x, labels = next(iter(measures.batches()))
    with ScratchFolder("plan") as folder, open_runtime(_alone()) as runtime:
        place = folder / "workspace"
        yield Pruner.prepare(network, [(x[:2], labels[:2])], how, runtime, place)


def _alone() -> RuntimeSpec:
    return RuntimeSpec(kind="none", workers=1, device="cpu")


def _refuse_finetuning(config: schema.Prune, pruner: Pruner) -> None:
    stored = checkpoint.read_json(pruner.workspace.path("dense", ARCHITECTURE))
    if config.repair.finetune and stored.get("graph", {}).get("evaluation_only"):
        raise ConfigError(
            "repair.finetune: found true, accepted false with this network: what it does while it "
            "trains cannot be recorded"
        )
