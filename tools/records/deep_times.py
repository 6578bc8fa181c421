"""How long ``gfs prune`` and ``gfs cut`` of a network take, phase by phase, and their floors.

python -m tools.records.deep_times MODEL WEIGHTS DATA NAME [KEY=VALUE ...]   # CIFAR-10

Both commands run in this process. The floor of a phase is its multiply-adds at the rate of one
large convolution on all threads, the best measured before, between and after the commands; phases
of which no floor is known (files, plots, timing of forward passes) have none.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from gfs_dist.config import commands as schema
from gfs_dist.config.compose import compose
from gfs_dist.jobs import cut, prune
from gfs_dist.pruning.calibration.moments import Geometry, multiply_adds
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.repair.sweep import REPEATS, NetworkPair
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.workflows.prune_deep import DeepFamily
from gfs_dist.workflows.reporter import Reporter
from tools.records.record import keep, load_average

Row = dict[str, Any]
Job = Callable[[Any, Reporter], Any]

PHASES = {
    "plan": "data read, plan, samples written",
    "measure": "networks measured",
    "prune": "moments and searches",
    "size": "widths chosen",
    "cut": "cut",
    "repair": "refit, checked against the masked network",
    "end": "stored, forward passes timed, report and plots",
}


class Clock(Reporter):
    """Adds up seconds and CPU seconds of each kind of phase, by the first word of its name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._kind, self._since = "plan", _now()
        self._total: int | None = None

    def phase(self, name: str, total: int | None = None) -> None:
        self._turn(name.partition(" ")[0], total)

    def step(self, done: int, loss: float | None = None, **facts: object) -> None:
        if self._kind == "measure" and done == self._total:
            self._turn("end", None)  # until the next phase begins

    def run(self, job: Job, config: Any) -> Any:
        found = job(config, self)
        self._turn("end", None)
        return found

    def _turn(self, kind: str, total: int | None) -> None:
        now = _now()
        self.seconds[self._kind] += now[0] - self._since[0]
        self.cpu[self._kind] += now[1] - self._since[1]
        self._kind, self._since, self._total = kind, now, total


def _now() -> tuple[float, float]:
    own = os.times()
    return time.perf_counter(), own.user + own.system


def convolution_rate(repeats: int = 20) -> float:
    """Multiply-adds a second of one 3x3 convolution, 64 channels, on all threads."""
    x = torch.randn(32, 64, 56, 56).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3)
    best = math.inf
    with torch.no_grad():
        for _ in range(repeats):
            began = time.perf_counter()
            functional.conv2d(x, weight, padding=1)
            best = min(best, time.perf_counter() - began)
    return weight.numel() * len(x) * 56 * 56 / best


def floors(
    pruner: Pruner, row: Row, samples: int, tested: int, measured: dict[str, int]
) -> dict[str, float]:
    """Multiply-adds of each phase.

    Args:
        pruner: with the structure of the dense network.
        row: of the result.
        samples, tested: calibration and test images.
        measured: networks that are measured: ``dense`` and ``small`` ones.
    """
    dense, small = row["dense"]["macs"], row["macs"]
    widths = {layer["name"]: layer["kept"] for layer in row["layers"]}
    kept = KeptChannels.first({name: widths[name] for name in pruner.channels})
    pair = NetworkPair.of_cut(pruner.dense, pruner.structure, kept, pruner.sites)
    summed, fitted = float(dense), float(2 * (dense + small))  # on the way, and for the check
    for site in pruner.consumer_sites(pruner.structure.layers):
        module = pruner.dense.get_submodule(site.module)
        channels = module.get_parameter("weight").shape[1]
        summed += multiply_adds(Geometry.of(module), channels, 0, site.positions)
    for site in pair.sites:
        module = pair.small.get_submodule(site.module)
        outputs, channels, *kernel = module.get_parameter("weight").shape
        repeats = REPEATS if site.rectified else 0
        fitted += multiply_adds(Geometry.of(module), channels, outputs, site.positions)
        # Again the correlation with the target, and the site's own output.
        fitted += 2 * repeats * channels * outputs * math.prod(kernel) * site.positions
    passes = measured["dense"] * dense + measured["small"] * small
    return {
        "measure": passes * (tested + samples),
        "prune": summed * samples,
        "repair": fitted * samples,
    }


def rows_of(command: str, clock: Clock, found: dict[str, float], rate: float) -> list[Row]:
    """A row for each phase, and one for the whole command."""
    rows = []
    for kind, what in PHASES.items():
        if kind in clock.seconds:
            floor = found.get(kind, 0.0) / rate or None
            rows.append(_row(command, what, clock.seconds[kind], clock.cpu[kind], floor))
    whole = sum(found.values()) / rate
    return [
        *rows,
        _row(command, "all", sum(clock.seconds.values()), sum(clock.cpu.values()), whole),
    ]


def _row(command: str, phase: str, seconds: float, cpu: float, floor: float | None) -> Row:
    row: Row = {"command": command, "phase": phase, "seconds": seconds, "CPU s": cpu}
    return {**row, "floor_s": floor, "times_floor": floor and seconds / floor}


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser()
    for name in ("model", "weights", "data", "name"):
        parser.add_argument(name)
    parser.add_argument("keys", nargs="*", default=["budget.macs=50%"])
    given = parser.parse_args()
    network = [f"model={given.model}", f"checkpoint={given.weights}"]
    rates, rows = [convolution_rate()], []
    with tempfile.TemporaryDirectory() as work:
        out = f"{work}/run"
        data = ["data=cifar10", f"data.root={given.data}", "runtime=none", f"out={out}"]
        config = compose("prune", [*network, *data, *given.keys])
        budget = [key for key in given.keys if key.startswith("budget.")]
        again = compose("cut", [f"path={out}", *budget, "name=again"])
        assert isinstance(config, schema.Prune)
        family = DeepFamily(config)
        samples, tested = len(family.measures.rows), len(family.images.x_test)
        with open_runtime(RuntimeSpec(kind="none")) as ranks:
            dense = family.network(Path(given.weights))
            two = [(x[:2], labels[:2]) for x, labels in [next(family.measures.batches())]]
            pruner = Pruner.prepare(dense, two, family.settings, ranks, f"{work}/trial")
            for command, job, keys, measured in (
                ("gfs prune", prune, config, {"dense": 1, "small": 2}),
                ("gfs cut", cut, again, {"dense": 0, "small": 1}),
            ):
                clock = Clock()
                row = clock.run(job.run, keys)["results"][-1]
                found = floors(pruner, row, samples, tested, measured)
                found = {kind: macs for kind, macs in found.items() if kind in clock.seconds}
                rates.append(convolution_rate())
                rows.append((command, clock, found))
    rate = max(rates)
    notes = [
        f"{samples:,} calibration images, {tested:,} test images, {torch.get_num_threads()} "
        "threads of one process; neither Python nor torch is imported in these times",
        f"floors: multiply-adds at {rate / 1e9:.0f}e9 a second",
        load_average(),
    ]
    keys = shlex.join([given.model, given.weights, given.data, given.name, *given.keys])
    table = [row for command, clock, found in rows for row in rows_of(command, clock, found, rate)]
    keep(given.name, f"python -m tools.records.deep_times {keys}", table, notes)


if __name__ == "__main__":
    main()
