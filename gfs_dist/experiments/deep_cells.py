"""Cells of the tables: a deep network is trained once, each checkpoint pruned by each rule.

What a rule searches serves all budgets. A training is done by any one rank, or by all at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.data import Images, calibration_rows
from gfs_dist.data.spec import DataSpec
from gfs_dist.experiments.deep_rules import CONTROL, RULES, UNPRUNED
from gfs_dist.experiments.grid import load_trained
from gfs_dist.files import RunFolder, checkpoint
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.pruning.cut import cut
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.runtime import Peers, RuntimeSpec, Tick, open_runtime
from gfs_dist.runtime.spec import NoPeers
from gfs_dist.training import DeepSpec, train_deep
from gfs_dist.workflows import train_deep as training
from gfs_dist.workflows.checkpoints import training_facts
from gfs_dist.workflows.measures import Measures, sizes
from gfs_dist.workflows.stored_networks import fresh_network, origin_of, read_images

CUT = "cut"
"""Folder of a network as it was cut, in that of its fine-tuning."""

FINETUNE_LR = 0.01
TUNING_SAVES = 8
"""Checkpoints of a fine-tuning by all ranks."""


@dataclass(frozen=True)
class Training:
    """A network to train on as many images of each class; None: on all images."""

    model: str
    width: float
    samples: int | None
    trial: int
    iterations: int
    every: int

    @property
    def name(self) -> str:
        return f"{self.model}_m{self.samples or 'all'}_t{self.trial}"

    @property
    def checkpoints(self) -> range:
        """Iterations that are pruned; the untrained network is not."""
        return range(self.every, self.iterations + 1, self.every)


@dataclass(frozen=True)
class Pruning:
    """A checkpoint to prune by one rule and to train on."""

    model: str
    samples: int | None
    trial: int
    iteration: int
    rule: str

    @property
    def training(self) -> str:
        return f"{self.model}_m{self.samples or 'all'}_t{self.trial}"

    @property
    def name(self) -> str:
        return f"{self.training}_i{self.iteration}_{self.rule}"


@dataclass(frozen=True)
class Tuning(Pruning):
    """A network that was pruned to so many percent of the multiply-adds, to train on."""

    macs: int

    @classmethod
    def of(cls, cell: Pruning, share: Fraction) -> Tuning:
        return cls(**asdict(cell), macs=as_percent(share))

    @property
    def name(self) -> str:
        return f"{super().name}_{self.macs}"


@dataclass(frozen=True)
class Setting:
    """What all cells share; travels to the ranks, which read the data themselves.

    Attributes:
        trainings: folder of the checkpoints, which all ranks see.
        macs: shares of the multiply-adds that stay.
        finetune: iterations after pruning.
        calibration: images that a checkpoint is pruned on.
        width_trials: networks that our rule cuts and measures; None: as many as ``gfs prune``.
        weight_decay: of training and fine-tuning.
        saves: checkpoints that are kept for each one that is pruned.
    """

    data: DataSpec
    seed: int
    trainings: str
    macs: tuple[Fraction, ...]
    finetune: int
    calibration: int
    width_trials: int | None
    weight_decay: float = DeepSpec.weight_decay
    saves: int = 1

    def images(self, samples: int | None, trial: int) -> Images:
        """The sub-dataset of a trial, balanced over classes; those of one trial are nested."""
        return read_images(self.data_spec(samples, trial))

    def data_spec(self, samples: int | None, trial: int) -> DataSpec:
        return replace(self.data, samples=samples, seed=self.seed + trial)

    def home(self, cell: Training | Tuning) -> Path:
        """The run folder of a training."""
        return Path(self.trainings) / cell.name

    def checkpoint(self, cell: Pruning) -> Dense:
        """The dense network to prune."""
        place = RunFolder(Path(self.trainings) / cell.training).checkpoint(cell.iteration)
        return Dense(*load_trained(place, cell.training))

    def measures(self, cell: Pruning, device: torch.device) -> Measures:
        """Images to prune and to measure on."""
        images, seed = self.images(cell.samples, cell.trial), self.seed + cell.trial
        rows = calibration_rows(images.labels_train, self.calibration, seed, images.prune_rows)
        return Measures(images, rows, device)


class Dense(NamedTuple):
    """A checkpoint: the network, and what its file says."""

    network: nn.Module
    state: dict[str, Any]


def as_percent(share: Fraction) -> int:
    """A share of the multiply-adds as names and rows have it."""
    return round(100 * share)


def architecture_of(model: str, width: float, images: Images) -> dict[str, Any]:
    """A network of the catalog for these images."""
    channels = images.x_train.shape[1]
    shape = {"num_classes": images.num_classes, "in_channels": channels}
    return {"model": model, **shape, "width": width}


@dataclass(frozen=True)
class TrainTask:
    """Trains a network, from its last checkpoint if it has one; as ``gfs pretrain`` does.

    The settings are those of :class:`gfs_dist.training.DeepSpec`: step size 0.1 falling to zero as
    a cosine, momentum 0.9, weight decay 5e-4 if the setting has no other, batches of 128, images
    of three colours cropped and mirrored.
    """

    setting: Setting

    def run(self, cell: Training, device: torch.device, tick: Callable[[], None]) -> dict[str, Any]:
        return self.together(cell, NoPeers(), device, lambda *_: tick())

    def together(
        self, cell: Training, peers: Peers, device: torch.device, tick: Tick
    ) -> dict[str, Any]:
        """The share of one rank; all of them return what was found."""
        setting, seed = self.setting, self.setting.seed + cell.trial
        images = setting.images(cell.samples, cell.trial)
        architecture = architecture_of(cell.model, cell.width, images)
        make = functools.partial(fresh_network, architecture, seed)
        spec = DeepSpec(
            iterations=cell.iterations,
            checkpoint_every=cell.every // setting.saves,
            weight_decay=setting.weight_decay,
            seed=seed,
        )
        states = _train(setting, cell, make, architecture, spec, peers, device, tick)
        keys = ("iteration", "loss", "accuracy", "accuracy_train")
        rows = [{key: state[key] for key in keys} for state in states]
        return {**sizes(make(), images), "checkpoints": rows}


def _train(
    setting: Setting,
    cell: Training | Tuning,
    make: Callable[[], nn.Module],
    architecture: dict[str, Any],
    spec: DeepSpec,
    peers: Peers,
    device: torch.device,
    tick: Tick,
) -> list[dict[str, Any]]:
    """Train in the folder of a cell; what each of its checkpoints says."""
    data = setting.data_spec(cell.samples, cell.trial)
    home = setting.home(cell)
    (home / "checkpoints").mkdir(parents=True, exist_ok=True)
    facts = training_facts(spec, {f"data={data.name}": read_images(data).fingerprint})
    work = training.TrainTask(data, make, spec, str(home), architecture, facts)
    work.run(peers, device, tick)
    peers.barrier()  # the last checkpoint is there
    places = [place for _, place in RunFolder(home).checkpoints()]
    return [checkpoint.read_json(place / checkpoint.STATE) for place in places]


@dataclass(frozen=True)
class PruneTask:
    """Prunes a checkpoint, measures it on the test images, trains it on and measures it again."""

    setting: Setting

    def run(self, cell: Pruning, device: torch.device, tick: Callable[[], None]) -> dict[str, Any]:
        setting, seed = self.setting, self.setting.seed + cell.trial
        dense = setting.checkpoint(cell)
        measures = setting.measures(cell, device)
        [(_, small, facts)] = cuts(setting, cell, dense, measures, tick)
        before = measures.quality(small, lambda *_: tick())
        spec = DeepSpec(
            iterations=setting.finetune,
            lr=FINETUNE_LR,
            weight_decay=setting.weight_decay,
            seed=seed,
        )
        images = setting.images(cell.samples, cell.trial)
        train_deep(small.to(device), images, spec, on_progress=lambda *_: tick())
        after = measures.facts(small, lambda *_: tick())
        return {
            "dense_accuracy": dense.state["accuracy"],
            "pruned_accuracy": before,
            "accuracy": after["accuracy"],
            "accuracy_train": after["accuracy_train"],
            **facts,
        }


@dataclass(frozen=True)
class CutTask:
    """Prunes a checkpoint to every budget, and stores the smaller networks for training on."""

    setting: Setting

    def run(self, cell: Pruning, device: torch.device, tick: Callable[[], None]) -> dict[str, Any]:
        setting, made = self.setting, []
        dense, measures = setting.checkpoint(cell), setting.measures(cell, device)
        images = setting.images(cell.samples, cell.trial)
        example = images.inputs(images.x_test[:2])
        origin = origin_of(dense.state["architecture"])
        for share, small, facts in cuts(setting, cell, dense, measures, tick):
            before = measures.quality(small, lambda *_: tick())
            home = setting.home(Tuning.of(cell, share))
            home.mkdir(parents=True, exist_ok=True)
            networks.save(home / CUT, small, example=example, origin=origin)
            made.append({"macs": as_percent(share), "pruned_accuracy": before, **facts})
        return {"dense_accuracy": dense.state["accuracy"], "cuts": made}


@dataclass(frozen=True)
class TuneTask:
    """Trains a network that :class:`CutTask` stored on, from its last checkpoint if it has one."""

    setting: Setting

    def together(
        self, cell: Tuning, peers: Peers, device: torch.device, tick: Tick
    ) -> dict[str, Any]:
        """The share of one rank; all of them return what was found."""
        setting, place = self.setting, self.setting.home(cell) / CUT
        spec = DeepSpec(
            iterations=setting.finetune,
            lr=FINETUNE_LR,
            checkpoint_every=max(1, setting.finetune // TUNING_SAVES),
            weight_decay=setting.weight_decay,
            seed=setting.seed + cell.trial,
        )
        architecture = checkpoint.read_json(place / ARCHITECTURE)
        make = functools.partial(_trainable, place)
        states = _train(setting, cell, make, architecture, spec, peers, device, tick)
        return {key: states[-1][key] for key in ("accuracy", "accuracy_train", "loss")}


def _trainable(place: Path) -> nn.Module:
    return networks.load(place).requires_grad_()


def cuts(
    setting: Setting,
    cell: Pruning,
    dense: Dense,
    measures: Measures,
    tick: Callable[[], None],
) -> Iterator[tuple[Fraction, nn.Module, dict[str, Any]]]:
    """Each budget's smaller network, of the class of the dense one, and how small it is."""
    if cell.rule == CONTROL:
        yield Fraction(1), dense.network.requires_grad_(), UNPRUNED
        return
    rule, origin = RULES[cell.rule], dense.state["architecture"]
    settings = replace(rule.settings, seed=setting.seed + cell.trial)
    spec = RuntimeSpec(kind="none", workers=1, device=measures.device.type)
    with ScratchFolder("table") as folder, open_runtime(spec) as runtime:
        place = folder / "workspace"
        pruner = Pruner.prepare(dense.network, measures.batches(), settings, runtime, place)
        pruner.search(on_progress=lambda *_: tick())
        for share in setting.macs:
            budget, name = Budget({"macs": share}, trials=setting.width_trials), as_percent(share)
            widths, tolerance = rule.widths(pruner, budget, tick)
            made = cut(pruner, widths, rule.repairs, name=f"cut_{name}", on_step=lambda *_: tick())
            model = folder / f"model_{name}"
            networks.save(model, made.network, example=pruner.only_input, origin=origin)
            costs = pruner.costs
            shares = {
                f"{kind}_kept": costs.of(kind, widths) / costs.dense(kind) for kind in costs.kinds
            }
            small = networks.load(model).requires_grad_()
            yield share, small, {**shares, "tolerance": tolerance, "widths": widths}
