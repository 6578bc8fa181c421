"""Table 1: networks on CIFAR-10, pruned after more and more pre-training and trained on.

A grid of networks x dataset sizes x checkpoints x rules x trials. A training is one cell and
serves all of its checkpoints and rules; pruning a checkpoint by a rule is one cell, which trains
the smaller network on as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from gfs_dist.config import commands as schema
from gfs_dist.experiments import table1_findings
from gfs_dist.experiments.deep_cells import PruneTask, Pruning, Setting, Training, TrainTask
from gfs_dist.experiments.deep_costs import CELL_S, network_costs
from gfs_dist.experiments.deep_rules import CONTROL, RULES
from gfs_dist.experiments.grid import Findings, Grid, numbers, time_line
from gfs_dist.pruning.widths.budget import percent
from gfs_dist.workflows.process import data_spec, own_device


@dataclass(frozen=True)
class Size:
    """How large the grid is.

    Attributes:
        networks: names of the catalog, with the width of each.
        samples: training images.
        iterations: of pre-training.
        checkpoints: that are pruned, evenly spaced, the last one included.
        finetune: iterations after pruning.
        calibration: images to prune on.
        width_trials: see :class:`gfs_dist.experiments.deep_cells.Setting`.
    """

    networks: tuple[tuple[str, float], ...]
    samples: tuple[int, ...]
    iterations: int
    checkpoints: int
    finetune: int
    calibration: int
    width_trials: int | None
    trials: int = 1


PRESETS = {
    "smoke": Size((("resnet8_cifar", 0.5),), (100, 300, 900), 80, 4, 20, 64, 4),
    "cpu": Size((("resnet8_cifar", 1.0),), (2000, 5000, 10_000), 2000, 4, 150, 512, 24, 3),
    "gpu": Size((("resnet20_cifar", 1.0),), (10_000, 30_000, 50_000), 8000, 4, 500, 1024, 48),
    "full": Size(
        (("mobilenet_v2_cifar", 1.0), ("resnet34_cifar", 1.0)),
        (10_000, 30_000, 50_000), 80_000, 4, 2500, 1024, None,
    ),
}  # fmt: skip
MACS = Fraction(60, 100)
"""Share of the multiply-adds that stays."""


class Table1:
    """The grid of a preset."""

    def __init__(self, config: schema.Reproduce) -> None:
        size = PRESETS[config.preset]
        self.config, self.data = config, data_spec(config.data)
        self.size = size = replace(size, trials=config.trials or size.trials)
        trials = range(size.trials)
        every = size.iterations // size.checkpoints
        self.trainings = [
            Training(model, width, samples, trial, size.iterations, every)
            for trial in trials
            for model, width in size.networks
            for samples in size.samples
        ]
        self.prunings = [
            Pruning(cell.model, cell.samples, cell.trial, iteration, rule)
            for cell in self.trainings
            for iteration in cell.checkpoints
            for rule in (*RULES, CONTROL)
        ]
        self.lines = self._plan()

    def run(self, grid: Grid) -> Findings:
        setting = self._setting(str(grid.folder.trainings.absolute()))
        trained = grid.compute("train", TrainTask(setting), self.trainings)
        pruned = grid.compute("prune", PruneTask(setting), self.prunings)
        return table1_findings.findings(trained, pruned)

    def _setting(self, trainings: str) -> Setting:
        size, seed = self.size, self.config.seed
        return Setting(
            self.data, seed, trainings, (MACS,), size.finetune, size.calibration, size.width_trials
        )

    def _plan(self) -> list[str]:
        size, ranks = self.size, self.config.workers
        setting, device = self._setting(""), own_device(self.config.device).type
        images = setting.images(max(size.samples), 0)
        costs = {
            model: network_costs(model, width, images, device, setting)
            for model, width in size.networks
        }
        train_s = max(costs[cell.model].train_s for cell in self.trainings) * size.iterations
        train_s *= math.ceil(len(self.trainings) / ranks)
        prune_s = sum(
            costs[cell.model].prune_s.get(cell.rule, CELL_S)
            + size.finetune * costs[cell.model].train_s
            for cell in self.prunings
        )
        names = ", ".join(
            f"{model} of width {width:g} ({costs[model].macs:,} multiply-adds)"
            for model, width in size.networks
        )
        memory = max(cost.memory_bytes for cost in costs.values()) + images.x_train.nbytes
        return [
            f"data      {self.data.name}: {numbers(size.samples)} training images, balanced over "
            f"classes; {len(images.x_test):,} test images",
            f"networks  {names}",
            f"training  {size.iterations:,} iterations, SGD with momentum, cosine from 0.1, "
            f"mini-batches of 128, pruned every {self.trainings[0].every:,}",
            f"pruning   to {percent(MACS)} of the multiply-adds on {size.calibration:,} images: "
            f"{', '.join(RULES)}; not at all: {CONTROL}; then {size.finetune:,} iterations from "
            "0.01",
            f"cells     {len(self.trainings):,} trainings and {len(self.prunings):,} prunings, "
            f"{size.trials} {'trial' if size.trials == 1 else 'trials'}",
            f"memory    about {memory / 2**20:,.0f} MiB a rank besides Python and torch",
            time_line(
                self.config,
                {"training": train_s, "pruning and fine-tuning": prune_s / ranks},
                "a GPU" if device == "cuda" else "one CPU core",
            ),
        ]
