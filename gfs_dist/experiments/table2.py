"""Table 2: networks on ImageNet, pruned to two budgets after more and more pre-training.

A training, and each fine-tuning, is a cell that all ranks do at once, each with its share of every
mini-batch. A pruning is a cell that any one rank does: it searches a checkpoint by one rule, which
serves both budgets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from gfs_dist.config import commands as schema
from gfs_dist.experiments import table2_findings
from gfs_dist.experiments.deep_cells import (
    TUNING_SAVES,
    CutTask,
    Pruning,
    Setting,
    Training,
    TrainTask,
    TuneTask,
    Tuning,
    as_percent,
)
from gfs_dist.experiments.deep_costs import CELL_S, Costs, network_costs
from gfs_dist.experiments.deep_rules import CONTROL, RULES
from gfs_dist.experiments.grid import Findings, Grid, Row, time_line
from gfs_dist.training import DeepSpec
from gfs_dist.workflows.process import data_spec, own_device
from gfs_dist.workflows.stored_networks import read_images

MACS = (Fraction(60, 100), Fraction(40, 100))
"""Shares of the multiply-adds that stay."""

WEIGHT_DECAY = 4e-5
"""The public code's, of Ye et al. 2020; the paper's is not known."""


@dataclass(frozen=True)
class Size:
    """How large the grid is; times are in epochs.

    Attributes:
        networks: names of the catalog, with the width of each.
        epochs: of pre-training.
        every: between checkpoints that are pruned; the last one is.
        finetune: of the smaller network.
        calibration: images to prune on.
        width_trials: see :class:`gfs_dist.experiments.deep_cells.Setting`; so is ``saves``.
    """

    networks: tuple[tuple[str, float], ...]
    epochs: int
    every: int
    finetune: int
    calibration: int
    width_trials: int | None
    saves: int = 1
    trials: int = 1

    @property
    def pruned(self) -> str:
        """The epochs of pruned checkpoints, in words."""
        return ", ".join(str(epoch) for epoch in range(self.every, self.epochs + 1, self.every))


PRESETS = {
    "smoke": Size((("resnet18", 0.0625),), 6, 2, 1, 32, 4),
    "cpu": Size((("mobilenet_v2", 0.25), ("resnet18", 0.25)), 60, 20, 16, 64, 24),
    "gpu": Size((("mobilenet_v2", 0.5), ("resnet34", 0.5)), 9, 3, 1, 128, 48),
    "full": Size((("mobilenet_v2", 1.0), ("resnet34", 1.0)), 150, 50, 80, 1024, None, saves=10),
}


class Table2:
    """The grid of a preset, on all images of the data or ``data.samples`` of them."""

    def __init__(self, config: schema.Reproduce) -> None:
        size = PRESETS[config.preset]
        self.config, self.data = config, data_spec(config.data)
        self.size = size = replace(size, trials=config.trials or size.trials)
        self.images = read_images(self.data)
        self.steps = math.ceil(len(self.images.x_train) / DeepSpec().batch)
        iterations, every = self.steps * size.epochs, self.steps * size.every
        self.trainings = [
            Training(model, width, self.data.samples, trial, iterations, every)
            for trial in range(size.trials)
            for model, width in size.networks
        ]
        self.prunings = [
            Pruning(cell.model, cell.samples, cell.trial, iteration, rule)
            for cell in self.trainings
            for iteration in cell.checkpoints
            for rule in (*RULES, CONTROL)
        ]
        self.tunings = [
            Tuning.of(cell, share)
            for cell in self.prunings
            for share in (MACS if cell.rule in RULES else (Fraction(1),))
        ]
        self.differences = self._differences()
        self.lines = self._plan()

    def run(self, grid: Grid) -> Findings:
        setting, steps = self._setting(str(grid.folder.trainings.absolute())), self.steps
        epochs, finetune = self.size.epochs, setting.finetune
        trained = grid.together("train", TrainTask(setting), self.trainings, steps * epochs)
        pruned = grid.compute("prune", CutTask(setting), self.prunings)
        tuned = grid.together("finetune", TuneTask(setting), self.tunings, finetune)
        cuts = [
            {"dense_accuracy": cell["dense_accuracy"], **cut}
            for cell in pruned
            for cut in cell["cuts"]
        ]
        rows = [
            {**cut, **row, "epoch": row["iteration"] // steps}
            for cut, row in zip(cuts, tuned, strict=True)
        ]
        return table2_findings.findings(
            self._counted(trained), self._counted(rows), self.differences
        )

    def _counted(self, rows: Iterable[Row]) -> list[Row]:
        """With the number of images where it is that of all."""
        return [{**row, "samples": len(self.images.x_train)} for row in rows]

    def _setting(self, trainings: str) -> Setting:
        size = self.size
        return Setting(
            self.data, self.config.seed, trainings, MACS, self.steps * size.finetune,
            size.calibration, size.width_trials, WEIGHT_DECAY, size.saves,
        )  # fmt: skip

    def _differences(self) -> list[Row]:
        """Settings of the paper beside those that are others here."""
        size, images = self.size, self.images
        channels, side = images.x_train.shape[1], images.x_train.shape[-1]
        names = [f"{m} of width {w:g}" if w != 1 else m for m, w in size.networks]
        settings = {
            "training images": ("1,281,167", f"{len(images.x_train):,} of {self.data.name}"),
            "classes": ("1,000", f"{images.num_classes:,}"),
            "pixels a side": ("224", f"{side}"),
            "networks": ("mobilenet_v2, resnet34", ", ".join(names)),
            "epochs of pre-training": ("150", f"{size.epochs}"),
            "pruned after epochs": ("50, 100, 150", size.pruned),
            "epochs of fine-tuning": ("80", f"{size.finetune}"),
            "augmentation": (
                "not given (public code: crops of random size, mirrored)",
                "cropped after a margin of 4, mirrored" if channels == 3 else "none",
            ),
            "weight decay": ("not given", f"{WEIGHT_DECAY:g}, the public code's"),
        }
        return [
            {"setting": key, "paper": paper, "here": here}
            for key, (paper, here) in settings.items()
            if paper != here
        ]

    def _plan(self) -> list[str]:
        size, count = self.size, len(self.images.x_train)
        device = own_device(self.config.device).type
        setting = self._setting("")
        costs = {
            model: network_costs(model, width, self.images, device, setting)
            for model, width in size.networks
        }
        tuned = sum(costs[cell.model].train_s * cell.macs / 100 for cell in self.tunings)
        work = {
            "training": sum(costs[c.model].train_s * c.iterations for c in self.trainings),
            "pruning": sum(costs[c.model].prune_s.get(c.rule, CELL_S) for c in self.prunings),
            "fine-tuning": tuned * setting.finetune,
        }
        names = ", ".join(
            f"{model} of width {width:g} ({costs[model].macs:,} multiply-adds)"
            for model, width in size.networks
        )
        budgets = " and ".join(f"{as_percent(share)} %" for share in MACS)
        memory = max(cost.memory_bytes for cost in costs.values()) + self.images.x_train.nbytes
        of = "a GPU" if device == "cuda" else "one CPU core"
        scaled = ", ".join(row["setting"] for row in self.differences)
        return [
            f"data      {self.data.name}: {count:,} training images, "
            f"{len(self.images.x_test):,} test images, {self.images.num_classes:,} classes",
            f"networks  {names}",
            f"training  {size.epochs} epochs of {self.steps:,} iterations by all ranks together, "
            f"SGD with momentum, cosine from 0.1, mini-batches of 128, weight decay "
            f"{WEIGHT_DECAY:g}; pruned after {size.pruned}",
            f"pruning   to {budgets} of the multiply-adds on {size.calibration:,} images, a "
            f"checkpoint a rank: {', '.join(RULES)}; not at all: {CONTROL}",
            f"then      {size.finetune} epochs from 0.01 by all ranks together",
            f"cells     {len(self.trainings):,} trainings, {len(self.prunings):,} prunings, "
            f"{len(self.tunings):,} fine-tunings",
            f"differs   from the paper: {scaled}",
            f"memory    about {memory / 2**20:,.0f} MiB a rank besides Python and torch; "
            f"{self._stored(costs) / 2**20:,.0f} MiB of checkpoints",
            time_line(
                self.config, {kind: spent / self.config.workers for kind, spent in work.items()}, of
            ),
        ]

    def _stored(self, costs: dict[str, Costs]) -> int:
        """Bytes of all checkpoints: weights and their momentum in float32."""
        saved = 1 + self.size.saves * self.size.epochs // self.size.every
        trained = sum(saved * costs[cell.model].params for cell in self.trainings)
        tuned = sum((1 + TUNING_SAVES) * costs[cell.model].params for cell in self.tunings)
        return 8 * (trained + tuned)
