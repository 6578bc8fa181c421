"""Cells of the tables: a deep network is trained once, and each checkpoint pruned by each rule."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.data import Images, calibration_rows
from gfs_dist.data.spec import DataSpec
from gfs_dist.files import RunFolder, checkpoint
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.pruning.cut import Repairs, cut
from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.choose import choose_widths
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.runtime.spec import NoPeers
from gfs_dist.training import DeepSpec, train_deep
from gfs_dist.workflows import train_deep as training
from gfs_dist.workflows.checkpoints import training_facts
from gfs_dist.workflows.measures import Measures, sizes
from gfs_dist.workflows.stored_networks import fresh_network, read_images

FINETUNE_LR = 0.01
CANDIDATES = 50
"""Channels that a step of the paper's rule scores at most, as the public code has it."""

HALVINGS = 7
"""How finely the tolerance of the paper's rule is sought: to a share of 0.008 of the top-1."""


@dataclass(frozen=True)
class Training:
    """A network to train on as many images of each class."""

    model: str
    width: float
    samples: int
    trial: int
    iterations: int
    every: int

    @property
    def name(self) -> str:
        return f"{self.model}_m{self.samples}_t{self.trial}"

    @property
    def checkpoints(self) -> range:
        """Iterations that are pruned; the untrained network is not."""
        return range(self.every, self.iterations + 1, self.every)


@dataclass(frozen=True)
class Pruning:
    """A checkpoint to prune by one rule and to train on."""

    model: str
    samples: int
    trial: int
    iteration: int
    rule: str

    @property
    def training(self) -> str:
        return f"{self.model}_m{self.samples}_t{self.trial}"

    @property
    def name(self) -> str:
        return f"{self.training}_i{self.iteration}_{self.rule}"


@dataclass(frozen=True)
class Setting:
    """What all cells share; travels to the ranks, which read the data themselves.

    Attributes:
        trainings: folder of the checkpoints, which all ranks see.
        macs: share of the multiply-adds that stays.
        finetune: iterations after pruning.
        calibration: images that a checkpoint is pruned on.
        width_trials: networks that our rule cuts and measures; None: as many as ``gfs prune``.
    """

    data: DataSpec
    seed: int
    trainings: str
    macs: Fraction
    finetune: int
    calibration: int
    width_trials: int | None

    def images(self, samples: int, trial: int) -> Images:
        """The sub-dataset of a trial, balanced over classes; those of one trial are nested."""
        return read_images(self.data_spec(samples, trial))

    def data_spec(self, samples: int, trial: int) -> DataSpec:
        return replace(self.data, samples=samples, seed=self.seed + trial)


def architecture_of(model: str, width: float, images: Images) -> dict[str, Any]:
    """A network of the catalog for these images."""
    channels = images.x_train.shape[1]
    shape = {"num_classes": images.num_classes, "in_channels": channels}
    return {"model": model, **shape, "width": width}


@dataclass(frozen=True)
class TrainTask:
    """Trains a network, from its last checkpoint if it has one; as ``gfs pretrain`` does.

    The settings are those of :class:`gfs_dist.training.DeepSpec`: step size 0.1 falling to zero as
    a cosine, momentum 0.9, weight decay 5e-4, batches of 128, images cropped and mirrored.
    """

    setting: Setting

    def run(self, cell: Training, device: torch.device, tick: Callable[[], None]) -> dict[str, Any]:
        setting, seed = self.setting, self.setting.seed + cell.trial
        images = setting.images(cell.samples, cell.trial)
        architecture = architecture_of(cell.model, cell.width, images)
        make = functools.partial(fresh_network, architecture, seed)
        spec = DeepSpec(iterations=cell.iterations, checkpoint_every=cell.every, seed=seed)
        home = Path(setting.trainings) / cell.name
        (home / "checkpoints").mkdir(parents=True, exist_ok=True)
        work = training.TrainTask(
            setting.data_spec(cell.samples, cell.trial),
            make,
            spec,
            str(home),
            architecture,
            training_facts(spec, {f"data={setting.data.name}": images.fingerprint}),
        )
        work.run(NoPeers(), device, lambda *_: tick())
        states = [
            checkpoint.read_json(place / checkpoint.STATE)
            for _, place in RunFolder(home).checkpoints()
        ]
        keys = ("iteration", "loss", "accuracy", "accuracy_train")
        rows = [{key: state[key] for key in keys} for state in states]
        return {**sizes(make(), images), "checkpoints": rows}


@dataclass(frozen=True)
class PruneTask:
    """Prunes a checkpoint, measures it on the test images, trains it on and measures it again."""

    setting: Setting

    def run(self, cell: Pruning, device: torch.device, tick: Callable[[], None]) -> dict[str, Any]:
        setting, seed = self.setting, self.setting.seed + cell.trial
        images = setting.images(cell.samples, cell.trial)
        place = RunFolder(Path(setting.trainings) / cell.training).checkpoint(cell.iteration)
        found = checkpoint.load(place)
        dense = networks.load_tensors(found.state["architecture"], found.tensors, place)
        rows = calibration_rows(images.labels_train, setting.calibration, seed)
        measures = Measures(images, rows, device)

        small, facts = dense.requires_grad_(), UNPRUNED
        if cell.rule != CONTROL:
            small, facts = self._prune(cell, dense, found.state["architecture"], measures, tick)
        before = measures.accuracy(small, lambda *_: tick())
        spec = DeepSpec(iterations=setting.finetune, lr=FINETUNE_LR, seed=seed)
        train_deep(small.to(device), images, spec, on_progress=lambda *_: tick())
        after = measures.facts(small, lambda *_: tick())
        return {
            "dense_accuracy": found.state["accuracy"],
            "pruned_accuracy": before,
            "accuracy": after["accuracy"],
            "accuracy_train": after["accuracy_train"],
            **facts,
        }

    def _prune(
        self,
        cell: Pruning,
        dense: nn.Module,
        origin: dict[str, Any],
        measures: Measures,
        tick: Callable[[], None],
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The smaller network, of the class of the dense one, and how small it is."""
        setting, rule = self.setting, RULES[cell.rule]
        settings = replace(rule.settings, seed=setting.seed + cell.trial)
        spec = RuntimeSpec(kind="none", workers=1, device=measures.device.type)
        with ScratchFolder("table") as folder, open_runtime(spec) as runtime:
            place = folder / "workspace"
            pruner = Pruner.prepare(dense, measures.batches(), settings, runtime, place)
            pruner.search(on_progress=lambda *_: tick())
            budget = Budget("macs", setting.macs, trials=setting.width_trials)
            widths, tolerance = rule.widths(pruner, budget, tick)
            made = cut(pruner, widths, rule.repairs, name="cut", on_site=lambda _: tick())
            networks.save(folder / "model", made.network, example=pruner.example, origin=origin)
            costs = pruner.costs
            shares = {
                f"{kind}_kept": costs.of(kind, widths) / costs.dense(kind) for kind in costs.kinds
            }
            small = networks.load(folder / "model").requires_grad_()
            return small, {**shares, "tolerance": tolerance, "widths": widths}


Widths = dict[str, int]


def by_tolerance(
    pruner: Pruner, budget: Budget, tick: Callable[[], None]
) -> tuple[Widths, float | None]:
    """Widths by one tolerance of top-1 for all layers, the least that meets a budget.

    The paper gives no tolerance, only the multiply-adds that were left. What the tolerance leaves
    of the budget goes to the first layers, up to the widths that the next smaller one has.
    """
    costs, limit = pruner.costs, pruner.costs.limit(budget)
    small, large = Fraction(0), Fraction(1)
    wide, widths = dict(costs.channels), costs.least()
    for _ in range(HALVINGS):
        middle = (small + large) / 2
        allowed = Budget("tolerance", middle)
        found = dict(choose_widths(pruner, allowed, lambda *_: tick()).widths)
        if costs.of("macs", found) <= limit:
            large, widths = middle, found
        else:
            small, wide = middle, found
    for name, width in widths.items():
        more = range(width, wide[name] + 1)
        fitting = [w for w in more if costs.of("macs", {**widths, name: w}) <= limit]
        widths[name] = max(fitting, default=width)
    return widths, float(large)


def by_divergence(
    pruner: Pruner, budget: Budget, tick: Callable[[], None]
) -> tuple[Widths, float | None]:
    """Widths by measured divergence from the dense network, as ``gfs prune`` shares them out."""
    return choose_widths(pruner, budget, lambda *_: tick()).widths, None


class Rule(NamedTuple):
    """How channels are picked, how many of each layer stay, and what is mended after the cut."""

    settings: Settings
    widths: Callable[[Pruner, Budget, Callable[[], None]], tuple[Widths, float | None]]
    repairs: Repairs


RULES = {
    "paper": Rule(
        Settings("network_loss", candidates=CANDIDATES), by_tolerance, Repairs(refit=False)
    ),
    "least_squares": Rule(Settings("least_squares"), by_divergence, Repairs()),
}
"""Rules by name. The paper's: of at most 50 channels the one that makes the network's loss on 128
images least, each pick of k weighing 1/k, up to a tolerance of top-1; batch norms are measured
again. Ours: least squares with every layer after a cut refitted."""

CONTROL = "unpruned"
"""The rule that removes nothing: what fine-tuning alone does to the same checkpoints."""

UNPRUNED: dict[str, Any] = {"macs_kept": 1.0, "params_kept": 1.0, "tolerance": None, "widths": {}}

DIFFERENCES = (
    "All steps of a layer's search see the same 128 calibration images; the public code draws "
    "new ones at each step.",
    "Layers are searched with all others dense, and none is trained before the next one; after "
    "the cut batch norms are measured again. The public code goes from the first layer to the "
    "last with those before cut already, and trains a tenth of an epoch after each.",
    "The paper gives no tolerance: here it is the least that meets the multiply-adds.",
    "Only widths inside of blocks are pruned, not those of residual streams.",
)
"""How the paper's rule here differs from the paper and the public code of Ye et al. 2020."""
