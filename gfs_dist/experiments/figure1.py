"""Figure 1: how much pre-training a two-layer network needs, against the size of its dataset.

A grid of widths x dataset sizes x checkpoints x trials x selection rules. A training is one cell
and serves all of its checkpoints and rules; pruning a checkpoint by a rule is one cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfs_dist import data, networks
from gfs_dist.config import commands as schema
from gfs_dist.data import Dataset, DataSpec
from gfs_dist.experiments import figure1_findings
from gfs_dist.experiments.grid import Findings, Grid, load_trained, numbers, time_line
from gfs_dist.files import checkpoint
from gfs_dist.networks import TwoLayer
from gfs_dist.pruning.objectives.two_layer import TwoLayerProblem
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.stop import Stop
from gfs_dist.training import TrainSpec, TrainState, train
from gfs_dist.training.train import default_lr
from gfs_dist.workflows.process import data_spec
from gfs_dist.workflows.two_layer import Inputs

LOSS, ACTIVATION, BATCH = "bce", "relu", 32

RULES: dict[str, Recipe] = {
    "uniform": Recipe("bce", "screened", "uniform", replacement=True),
    "line_search": Recipe("bce", "screened", "line_search", replacement=True),
    "least_squares": Recipe("least_squares", "elimination", "uniform", replacement=False),
}
"""Selection rules by name; the first is the paper's. Least squares fits targets of +1 and -1."""

TRAIN_S, TRAIN_S_PER_NEURON, MEASURE_S = 0.5e-3, 2.1e-6, 1e-7
SEARCH_S = {"uniform": 2.8e-9, "line_search": 1e-8, "least_squares": 1e-9}
PICK_S = {"uniform": 8e-4, "line_search": 3.5e-3, "least_squares": 3e-4}
"""Seconds of one core, measured: of an iteration, of it for each neuron, of both measurements of a
checkpoint for each neuron and sample; of a pick for each neuron and sample, and besides."""

PROCESS_BYTES = 2**29
"""Of a rank: torch, and the dataset as it is read."""


@dataclass(frozen=True)
class Size:
    """How large the grid is.

    Attributes:
        widths, samples, iterations: its axes.
        picks: of a search; the paper prunes to 200 hidden nodes.
        prune_samples: rows to prune on at most; None: all that were trained on.
        level: training accuracy of the red line that is drawn at a fixed level.
    """

    widths: tuple[int, ...]
    samples: tuple[int, ...]
    iterations: tuple[int, ...]
    picks: int
    prune_samples: int | None
    level: float
    trials: int


PAPER_SAMPLES = (1000, *range(5000, 50_001, 5000))
CHECKPOINTS = (0, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000)
PRESETS = {
    "smoke": Size((50, 100), (200, 500, 1200), (0, 50, 100, 200, 400, 800), 30, 500, 0.95, 1),
    "cpu": Size((400, 1000), (1000, 5000, 10_000, 20_000, 50_000), CHECKPOINTS, 200, 5000, 0.98, 3),
    "gpu": Size((1000, 5000), PAPER_SAMPLES, CHECKPOINTS, 200, 5000, 0.98, 3),
    "full": Size(
        (5000, 10_000, 20_000), PAPER_SAMPLES, tuple(range(0, 8001, 1000)), 200, None, 0.98, 3
    ),
}


@dataclass(frozen=True)
class Training:
    """A network to train, with the checkpoints to keep."""

    width: int
    samples: int
    trial: int
    iterations: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"n{self.width}_m{self.samples}_t{self.trial}"


@dataclass(frozen=True)
class Pruning:
    """A checkpoint to prune by one rule."""

    width: int
    samples: int
    trial: int
    iteration: int
    rule: str

    @property
    def name(self) -> str:
        return f"n{self.width}_m{self.samples}_t{self.trial}_i{self.iteration}_{self.rule}"


@dataclass(frozen=True)
class Setting:
    """What all cells share; travels to the ranks, which read the data themselves.

    Attributes:
        trainings: folder of the checkpoints, which all ranks see.
    """

    spec: DataSpec
    seed: int
    picks: int
    prune_samples: int | None
    trainings: str

    def dataset(self, samples: int, trial: int) -> Dataset:
        """The sub-dataset of a trial, balanced over classes; those of one trial are nested."""
        few = self.prune_samples if samples > (self.prune_samples or samples) else None
        seed = self.seed + trial
        spec = replace(self.spec, samples=samples, seed=seed, prune_samples=few)
        return Inputs(spec, 1, ACTIVATION, LOSS).dataset()

    def checkpoint(self, training: str, iteration: int) -> Path:
        return Path(self.trainings) / training / f"step_{iteration:08d}"

    def network(self, training: str, iteration: int) -> tuple[TwoLayer, float]:
        """A checkpoint's network and its mean loss over what it was trained on."""
        network, state = load_trained(self.checkpoint(training, iteration), training)
        assert isinstance(network, TwoLayer)
        return network.requires_grad_(), float(state["loss"])


@dataclass(frozen=True)
class TrainTask:
    """Trains a network, from its last checkpoint if it has one, and measures its checkpoints."""

    setting: Setting

    def run(self, cell: Training, device: torch.device, tick: Callable[[], None]) -> dict[str, Any]:
        setting, seed = self.setting, self.setting.seed + cell.trial
        dataset = setting.dataset(cell.samples, cell.trial)
        x, target = (part.to(device) for part in _inputs(dataset.x_train, dataset.labels_train))
        network = TwoLayer.initialise(
            cell.width, dataset.features, ACTIVATION, seed, torch.float32
        ).to(device)
        spec = TrainSpec(cell.iterations[-1], None, BATCH, seed=seed, method="sgd")
        spec = replace(spec, lr=default_lr(network, x, LOSS, spec))
        start = None

        def keep(iteration: int, network: TwoLayer, state: TrainState) -> None:
            tick()
            place = setting.checkpoint(cell.name, iteration)
            place.parent.mkdir(parents=True, exist_ok=True)
            described = {"loss": state.loss, "architecture": network.architecture}
            checkpoint.save(place, network.state_dict(), {"iteration": iteration, **described})

        for iteration in cell.iterations:
            if not setting.checkpoint(cell.name, iteration).is_dir():
                stage = replace(spec, iterations=iteration, checkpoint_every=max(1, iteration))
                train(
                    network, x, target, LOSS, stage, start=start,
                    on_checkpoint=keep, on_progress=lambda *_: tick(),
                )  # fmt: skip
            network, loss = setting.network(cell.name, iteration)
            network, start = network.to(device), TrainState(iteration, loss)
        rows = []
        for iteration in cell.iterations:
            network, loss = setting.network(cell.name, iteration)
            measured = accuracies(network.to(device), dataset, tick)
            rows.append({"iteration": iteration, "loss": loss, **measured})
        return {"lr": spec.lr, "checkpoints": rows}


@dataclass(frozen=True)
class PruneTask:
    """Prunes a checkpoint to so many picks and measures what is left, without fine-tuning."""

    setting: Setting

    def run(self, cell: Pruning, device: torch.device, tick: Callable[[], None]) -> dict[str, Any]:
        setting = self.setting
        dataset = setting.dataset(cell.samples, cell.trial)
        training = Training(cell.width, cell.samples, cell.trial, ()).name
        network, _ = setting.network(training, cell.iteration)
        recipe = RULES[cell.rule]
        x, labels = dataset.pruned_on
        target = data.target(labels, LOSS if recipe.loss == LOSS else "squared")
        inputs = (x.to(device), target.to(device))
        problem = TwoLayerProblem(lambda: inputs, network, recipe)
        objective = problem.objective(RankShare.whole(cell.width), device, tick)
        path = greedy(objective, Stop(setting.picks), on_step=lambda _: tick())
        if recipe.loss == "least_squares":
            path.fit = problem.fit(path.picks)
        small = network.shrink(path.coefficients())
        return {
            "picks": len(path),
            "kept": path.num_kept,
            "loss": path.loss[-1],
            **accuracies(small.to(device), dataset, tick),
            "picks_sha256": path.sha256,
        }


def accuracies(network: TwoLayer, dataset: Dataset, tick: Callable[[], None]) -> dict[str, float]:
    """``accuracy_train`` on the whole sub-dataset, ``accuracy`` on the test split."""
    found = {}
    for key, x, labels in (
        ("accuracy_train", dataset.x_train, dataset.labels_train),
        ("accuracy", dataset.x_test, dataset.labels_test),
    ):
        tick()
        inputs, target = (part.to(network.hidden.weight.device) for part in _inputs(x, labels))
        found[key] = networks.accuracy(networks.outputs(network, inputs), target)
    return found


def _inputs(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return x.float(), data.target(labels, LOSS)


def train_cost(cell: Training) -> float:
    """Seconds of one core."""
    measured = len(cell.iterations) * MEASURE_S * cell.width * cell.samples
    return measured + cell.iterations[-1] * (TRAIN_S + TRAIN_S_PER_NEURON * cell.width)


class Figure1:
    """The grid of a preset."""

    def __init__(self, config: schema.Reproduce) -> None:
        size = PRESETS[config.preset]
        self.size = replace(size, trials=config.trials or size.trials)
        self.config, self.spec = config, data_spec(config.data)
        trials = range(self.size.trials)
        self.trainings = [
            Training(width, samples, trial, size.iterations)
            for trial in trials
            for samples in size.samples
            for width in size.widths
        ]
        self.prunings = [
            Pruning(t.width, t.samples, t.trial, iteration, rule)
            for t in self.trainings
            for iteration in size.iterations
            for rule in RULES
        ]
        # Refuses data that cannot be read, or that is too small.
        self.features = data.load(replace(self.spec, samples=max(size.samples))).features
        self.lines = self._plan()

    def _plan(self) -> list[str]:
        size, ranks = self.size, self.config.workers
        train_s = sum(map(train_cost, self.trainings))
        search_s = sum(map(self._prune_cost, self.prunings))
        rows = "all rows" if size.prune_samples is None else f"{size.prune_samples:,} rows at most"
        widest, most = max(size.widths), max(size.samples)
        features = self.features
        memory = (
            PROCESS_BYTES
            + most * features * 20
            + 16 * widest * min(most, size.prune_samples or most)
        )
        return [
            f"data      {self.spec.name}: {numbers(size.samples)} samples, balanced over classes",
            f"networks  two-layer, {numbers(size.widths)} {ACTIVATION} neurons, {LOSS}, "
            f"mini-batches of {BATCH}, float32; checkpoints {numbers(size.iterations)}",
            f"pruning   {size.picks} picks on {rows}: {', '.join(RULES)}; no fine-tuning",
            f"cells     {len(self.trainings):,} trainings and {len(self.prunings):,} prunings, "
            f"{size.trials} {'trial' if size.trials == 1 else 'trials'}",
            f"memory    about {memory / 2**30:.1f} GiB a rank",
            time_line(self.config, {"training": train_s / ranks, "pruning": search_s / ranks}),
        ]

    def _prune_cost(self, cell: Pruning) -> float:
        """Seconds of one core."""
        rows = min(cell.samples, self.size.prune_samples or cell.samples)
        return self.size.picks * (PICK_S[cell.rule] + SEARCH_S[cell.rule] * cell.width * rows)

    def run(self, grid: Grid) -> Findings:
        size = self.size
        setting = Setting(
            self.spec, self.config.seed, size.picks, size.prune_samples,
            str(grid.folder.trainings.absolute()),
        )  # fmt: skip
        trained = grid.compute("train", TrainTask(setting), self.trainings, train_cost)
        pruned = grid.compute("prune", PruneTask(setting), self.prunings, self._prune_cost)
        return figure1_findings.findings(trained, pruned, size.level)
