"""The paper's theorems beside what happens: bounds, rates and thresholds, with measured constants.

Two kinds of cells. A descent is a two-layer network trained by gradient descent on few samples,
pruned at iterations 0, 1, 2, 4, ...; there the theorems can be held against it. A spectrum is a
network at initialisation on more samples, which shows how the theory's constants grow with them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfs_dist import data
from gfs_dist.api.select import select
from gfs_dist.config import commands as schema
from gfs_dist.data import DataSpec
from gfs_dist.errors import RunError
from gfs_dist.experiments import theory_findings
from gfs_dist.experiments.grid import Findings, Grid, numbers, time_line
from gfs_dist.experiments.spectra import SPECTRUM_S
from gfs_dist.experiments.theory_thresholds import GOOD, RULES
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.models.two_layer import ACTIVATIONS
from gfs_dist.selection.path import GreedyPath
from gfs_dist.theory import (
    Lemma1Constants,
    Spectrum,
    diameter_by_weights,
    hull_minimum,
    initial_spectrum,
    kernel_rate,
    lemma1_bound,
    lemma1_constants,
)
from gfs_dist.training import TrainSpec, default_lr, tangent_kernel, train
from gfs_dist.training.batches import mixed_seed
from gfs_dist.workflows.process import data_spec
from gfs_dist.workflows.two_layer import Inputs

ACTIVATION, LOSS = "tanh", "squared"
PICKS = (10, 30, 100, 200, 1000)
"""At which losses are kept; a search makes the last number of picks."""

GAUSSIAN = "gaussian"
"""In place of a dataset: hidden outputs that are a Gaussian matrix."""

FLOOR = 1e-20
"""Losses from here on are rounding; no rate is measured on them."""

THEORY_STEPS = 30
"""Iterations with the step that the paper's theory allows."""

DESCENT_S, PRUNE_S = 8e-8, 4e-4
"""Seconds of one core for each neuron: of an iteration and sample; of a checkpoint to prune."""


@dataclass(frozen=True)
class Size:
    """How large the grid is.

    Attributes:
        samples, widths: of the descents.
        iterations: of a descent, at most; it ends earlier where its loss is down to rounding.
        pruned: the last iteration that may be pruned.
        spectrum_samples, spectrum_width: of the spectra.
        trials: of each cell.
    """

    samples: tuple[int, ...]
    widths: tuple[int, ...]
    iterations: int
    pruned: int
    spectrum_samples: tuple[int, ...]
    spectrum_width: int
    trials: int


CPU = Size((10, 20, 40), (1000, 4000), 4000, 256, (10, 20, 40, 80, 160, 320, 640), 2000, 3)
PRESETS = {
    "smoke": Size((10, 20), (300,), 400, 64, (10, 20, 40, 80), 400, 1),
    "cpu": CPU,
    "gpu": CPU,
    "full": replace(
        CPU, samples=(10, 20, 40, 80, 160), widths=(1000, 4000, 16_000), iterations=20_000,
        pruned=1024, trials=5,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Descent:
    """A network to train and to prune."""

    data: str
    samples: int
    width: int
    iterations: int
    pruned: int
    trial: int
    seed: int

    @property
    def name(self) -> str:
        return f"descent_{self.data}_m{self.samples}_n{self.width}_t{self.trial}"


@dataclass(frozen=True)
class Initial:
    """A network at initialisation."""

    data: str
    samples: int
    width: int
    trial: int
    seed: int

    @property
    def name(self) -> str:
        return f"spectrum_{self.data}_m{self.samples}_n{self.width}_t{self.trial}"


@dataclass(frozen=True)
class Setting:
    """The datasets by name; each rank reads them itself."""

    specs: dict[str, DataSpec]

    def inputs(self, cell: Descent | Initial) -> tuple[Tensor, Tensor]:
        spec = replace(self.specs[cell.data], samples=cell.samples, seed=cell.seed)
        return Inputs(spec, cell.width, ACTIVATION, LOSS).training()


def spectrum_of(network: TwoLayer, x: Tensor) -> Spectrum:
    """Definition 1 of a network at initialisation."""
    return initial_spectrum(ACTIVATIONS[ACTIVATION](x @ network.hidden.weight.detach().T))


@dataclass(frozen=True)
class SpectrumTask:
    """The constants of Theorems 2, 3 and 7 before training."""

    setting: Setting

    def run(self, cell: Initial, device: torch.device, tick: Callable[[], None]) -> dict[str, Any]:
        if cell.data == GAUSSIAN:
            seed = mixed_seed(cell.seed, cell.samples, cell.width)
            generator = torch.Generator().manual_seed(seed)
            shape = cell.samples, cell.width
            hidden = torch.randn(shape, generator=generator, dtype=torch.float64)
            spectrum = initial_spectrum(hidden)
            return {"alpha": spectrum.smallest, "beta": spectrum.largest}
        x, _ = self.setting.inputs(cell)
        network = TwoLayer.initialise(cell.width, x.shape[1], ACTIVATION, cell.seed)
        return start_facts(network, x)


def start_facts(network: TwoLayer, x: Tensor) -> dict[str, Any]:
    """Spectrum and tangent kernel of a network, and what follows from them.

    Returns:
        alpha, beta; rate and stable step (of the summed loss); the paper's c; the stable step as
        share of the largest one that the paper's theory allows, N^2 / beta^2.
    """
    spectrum, rate = spectrum_of(network, x), kernel_rate(tangent_kernel(network, x))
    return {
        "alpha": spectrum.smallest,
        "beta": spectrum.largest,
        "rate": rate.rate,
        "stable_step": rate.stable_step,
        "rate_constant": rate.rate_constant(spectrum),
        "stable_share": rate.stable_step * spectrum.largest**2 / network.width**2,
    }


@dataclass(frozen=True)
class DescentTask:
    """Trains a network, prunes it on the way, and measures how fast its loss falls."""

    setting: Setting

    def run(self, cell: Descent, device: torch.device, tick: Callable[[], None]) -> dict[str, Any]:
        x, y = self.setting.inputs(cell)
        network = TwoLayer.initialise(cell.width, x.shape[1], ACTIVATION, cell.seed)
        lr = default_lr(network, x, LOSS, TrainSpec())
        found = start_facts(network, x)
        found["theory_step"] = _theory_step_growth(copy.deepcopy(network), x, y, found["beta"])
        found["output_bound"] = diameter_by_weights(network.output.weight.detach())
        first = network.output.weight.detach().clone()
        step = lr / cell.samples
        enough = math.log(1 / FLOOR) / (found["rate"] * step) if found["rate"] else math.inf
        last = math.ceil(min(cell.iterations, enough))
        pruned = [0, *(2**i for i in range(20) if 2**i <= min(cell.pruned, last))]
        losses: list[float] = []
        points: list[dict[str, Any]] = []

        def on_progress(_: int, loss: float) -> None:
            tick()
            losses.append(loss)

        for iteration in [*pruned, last]:
            if span := iteration - len(losses):
                spec = TrainSpec(span, lr, checkpoint_every=span)
                train(network, x, y, LOSS, spec, on_progress=on_progress)
            if len(points) < len(pruned):
                points.append({"iteration": iteration, **pruned_facts(network, x, y, tick)})
        moved = float((network.output.weight.detach() - first).abs().max())
        end_rate = kernel_rate(tangent_kernel(network, x)).rate
        found |= {"lr": lr, "measured_rate": tail_rate(losses, step), "end_rate": end_rate}
        return {**found, "moved": moved, "iterations_done": last, "checkpoints": points}


def _theory_step_growth(network: TwoLayer, x: Tensor, y: Tensor, beta: float) -> float | None:
    """By how much the step N^2 / beta^2 multiplies the loss; None: beyond all numbers."""
    losses: list[float] = []
    spec = TrainSpec(THEORY_STEPS, len(x) * network.width**2 / beta**2, checkpoint_every=10**6)
    try:
        train(network, x, y, LOSS, spec, on_progress=lambda _, loss: losses.append(loss))
    except RunError:
        return None
    return losses[-1] / losses[0]


def tail_rate(losses: list[float], step: float) -> float | None:
    """Rate of the loss over the second half of the iterations before it is down to rounding.

    Iterations after the least loss do not count: near rounding a direction whose curvature training
    has raised above the step's limit may grow again.

    Returns:
        per unit of ``step``: ``-d log(loss) / (step dt)``; None of fewer than 4 such iterations.
    """
    falling = [loss for loss in losses[: losses.index(min(losses)) + 1] if loss > FLOOR]
    half, last = len(falling) // 2, len(falling) - 1
    if last - half < 2:
        return None
    return math.log(falling[half] / falling[last]) / ((last - half) * step)


def pruned_facts(
    network: TwoLayer, x: Tensor, y: Tensor, tick: Callable[[], None]
) -> dict[str, Any]:
    """Lemma 1's constants of a network, its hull's least loss, and a path by every rule."""
    contributions = network.contributions(x, torch.arange(network.width)).T
    constants, least = lemma1_constants(contributions, y), hull_minimum(contributions, y)
    tick()
    facts: dict[str, Any] = {
        "dense_loss": constants.dense_loss,
        "first_loss": constants.first_loss,
        "diameter_squared": constants.diameter_squared,
        "hull_loss": least.loss,
        "hull_gap": least.gap,
    }
    for rule in RULES:
        path = select(contributions, y, steps=PICKS[-1], weights=rule, device="cpu")
        tick()
        facts[rule] = path_facts(path, constants, least.loss)
    refitted = select(
        contributions, y, steps=min(len(y), network.width), loss="least_squares", device="cpu"
    )
    return {**facts, "least_squares": {"neurons_to_good": neurons_to_good(refitted)}}


def neurons_to_good(path: GreedyPath) -> int | None:
    """Distinct neurons with which a path's loss is first good (:data:`GOOD`); None if never."""
    k = next((k for k, loss in enumerate(path.loss, start=1) if loss <= GOOD), None)
    return None if k is None else len(path.support(k))


def path_facts(path: GreedyPath, constants: Lemma1Constants, hull_loss: float) -> dict[str, Any]:
    """Losses of a path at :data:`PICKS`, and the largest share that it reaches of its bounds.

    A path that ends early, since no pick lowers its loss, keeps its last loss.
    """
    losses, k = np.array(path.loss), np.arange(2, len(path) + 1)  # at the first pick both are L_1
    shares = {}
    for name, limit in (("L_N", constants.dense_loss), ("hull", hull_loss)):
        bound = lemma1_bound(k, constants.first_loss, constants.diameter_squared, limit)
        shares[name] = float((losses[1:] / bound).max(initial=0.0))
    at = [float(losses[min(k, len(losses)) - 1]) for k in PICKS]
    above = np.flatnonzero(losses > constants.dense_loss + theory_findings.TOLERANCE)
    return {
        "loss": at,
        "share_of_bound": shares,
        "picks_to_tolerance": int(above[-1]) + 2 if len(above) else 1,
        "neurons_to_good": neurons_to_good(path),
    }


class Theory:
    """The grid of a preset: on digits, and on MNIST too where ``data=mnist``."""

    def __init__(self, config: schema.Reproduce) -> None:
        preset = PRESETS[config.preset]
        size = self.size = replace(preset, trials=config.trials or preset.trials)
        self.config, chosen = config, data_spec(config.data)
        self.specs = {"digits": DataSpec(), chosen.name: chosen}
        names, seeds = tuple(self.specs), [(t, config.seed + t) for t in range(size.trials)]
        self.descents = [
            Descent(name, m, n, size.iterations, size.pruned, trial, seed)
            for trial, seed in seeds
            for m in size.samples
            for n in size.widths
            for name in names
        ]
        self.spectra = [
            Initial(name, m, size.spectrum_width, trial, seed)
            for trial, seed in seeds
            for m in size.spectrum_samples
            for name in (*names, GAUSSIAN)
        ]
        for spec in self.specs.values():  # refuses what it cannot hold
            data.load(replace(spec, samples=size.spectrum_samples[-1]))
        self.lines = self._plan()

    def _plan(self) -> list[str]:
        size, ranks = self.size, self.config.workers
        pruned = 2 + math.log2(size.pruned)
        descents_s = sum(
            d.width * (DESCENT_S * d.iterations * d.samples + PRUNE_S * pruned)
            for d in self.descents
        )
        spectra_s = sum(SPECTRUM_S * s.samples**2 * s.width for s in self.spectra)
        return [
            f"data      {', '.join(self.specs)}: {numbers(size.samples)} samples",
            f"descents  two-layer, {numbers(size.widths)} {ACTIVATION} neurons, gradient descent "
            f"on squared loss, up to {size.iterations:,} iterations; pruned to {PICKS[-1]:,} picks "
            f"at 0, 1, 2, 4 ... {size.pruned:,} by {', '.join(RULES)}, least_squares",
            f"spectra   {size.spectrum_width:,} neurons at initialisation on up to "
            f"{size.spectrum_samples[-1]:,} samples, and Gaussian matrices",
            f"cells     {len(self.descents):,} descents and {len(self.spectra):,} spectra, "
            f"{size.trials} {'trial' if size.trials == 1 else 'trials'}",
            time_line(self.config, {"descents": descents_s / ranks, "spectra": spectra_s / ranks}),
        ]

    def run(self, grid: Grid) -> Findings:
        setting = Setting(self.specs)
        spectra = grid.compute("spectra", SpectrumTask(setting), self.spectra)
        descents = grid.compute("descent", DescentTask(setting), self.descents)
        return theory_findings.findings(descents, spectra, PICKS)
