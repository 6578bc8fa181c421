"""Widths by a trial a layer against a search by exchange with a trial for every change.

python -m tools.records.sizing MODEL WEIGHTS DATA_ROOT NAME --work FOLDER [--budgets ...]

Arguments are those of ``tools.records.quality``. Both sides take turns, budget by budget; finished
cells lie in FOLDER. The exchange fits every network from its first layer on and compares the
softmax of the outputs, as the product once did.
"""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gfs_dist.networks.measure.threads import in_threads
from gfs_dist.pruning.calibration.moments import Sums, sum_chunks
from gfs_dist.pruning.calibration.staged_run import SMALL, MemoryStore
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.repair.sweep import Visit, sweep
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.widths.allocate import proportional
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.choose import by_curves, choose_widths, make_trial
from gfs_dist.pruning.widths.width_trial import WidthTrial
from gfs_dist.runtime import RuntimeSpec, open_runtime
from tools.records.quality import Bench, open_bench, read_options, searched
from tools.records.record import Cell, keep, load_average
from tools.records.width_exchange import WidthExchange, Widths

CPU = torch.device("cpu")
MULTIPLY_ADDS, LEAST, MOST = 2**43, 4, 1000
"""Trials of the exchange: as many as cost so much, at least four a layer."""

NOTES = (
    "exchange: one layer wider, another narrower, kept where the Kullback-Leibler divergence of "
    "the softmax falls; every trial cuts, fits and runs the network from its first layer on",
    "weighted curves: the product; a trial narrows one layer, and runs and fits only what lies "
    "behind it; errors of layers, weighted by what trials found, share the budget out",
    "difference, divergence: of the widths found, on the 768 samples that both sides compare on "
    "(each side has chosen the least of its own); fresh divergence and agreement: with the dense "
    "network on all test images after the refit, on which neither has",
    "refit: top-1 after the product's refit on all samples, no fine-tuning",
)


def divergence(task: WidthTrial, kept: KeptChannels) -> float:
    """Mean ``sum p log(p / q)`` after one refit from the first layer on, in nats."""
    pair, store, samples = task.pair(kept, CPU), MemoryStore(), task.workspace
    for place, chunk in enumerate(task.fitted):
        store.save(SMALL, 0, place, {pair.dense.gfs_inputs[0]: samples.x(chunk)})

    def sum_up(visit: Visit) -> Sums:
        return sum_chunks(lambda place: pair.sums(visit, place, store), range(len(task.fitted)))

    sweep(pair, sum_up, repeats=0, on_site=lambda stage: store.drop(SMALL, stage))

    def compare(chunk: int) -> Tensor:
        with torch.no_grad():
            return divergences(pair.dense(samples.x(chunk)), pair.small(samples.x(chunk)))

    return float(torch.cat(list(in_threads(compare, task.compared))).mean())


def divergences(dense: Tensor, small: Tensor) -> Tensor:
    """``sum p log(p / q)`` of each sample; infinite where outputs are."""
    if not torch.isfinite(small).all():
        return torch.full((len(small),), math.inf, dtype=torch.float64)
    p, q = dense.double().log_softmax(1), small.double().log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


def by_exchange(pruner: Pruner, budget: Budget) -> tuple[Widths, int]:
    """Widths, and how many trials they took."""
    costs, limit, task = pruner.costs, pruner.costs.limits(budget)["macs"], make_trial(pruner)
    samples = len(pruner.workspace.x(0)) * (len(task.fitted) + len(task.compared))
    trials = min(MOST, MULTIPLY_ADDS // (costs.dense("macs") * samples))
    trials = max(LEAST * len(pruner.channels), trials)

    def measure(wanted: Sequence[Widths]) -> list[float]:
        return [divergence(task, pruner.keep(widths, fold=False)) for widths in wanted]

    most = {name: len(found.curve) for name, found in pruner.paths.items()}
    search = WidthExchange(costs, "macs", limit, measure, trials, most)
    starts = [by_curves(pruner, {"macs": limit}), proportional(costs, {"macs": limit}, most=most)]
    return search.run(starts)[0], search.used


def by_weights(pruner: Pruner, budget: Budget) -> tuple[Widths, int]:
    """The product's widths, and how many trials they took."""
    made = 0

    def on_trial(done: int, *_: object) -> None:
        nonlocal made
        made = done

    return choose_widths(pruner, budget, on_trial).widths, made


SIDES = {"weighted curves": by_weights, "exchange": by_exchange}


def find(pruner: Pruner, budget: Budget, side: str) -> Cell:
    """The widths of one side, and what they cost."""
    began, spent = time.perf_counter(), time.process_time()
    widths, trials = SIDES[side](pruner, budget)
    wall, cpu = time.perf_counter() - began, time.process_time() - spent
    return {"widths": dict(widths), "trials": trials, "cpu_s": cpu, "wall_s": wall}


def measure(bench: Bench, pruner: Pruner, budget: Fraction, side: str) -> Cell:
    """One row: what a side found, and how good it is."""
    name = f"{float(100 * budget):g} %/{side}"
    found = bench.cells.once(
        f"widths/{name}", partial(find, pruner, Budget({"macs": budget}), side)
    )
    kept, task = pruner.keep(found["widths"], fold=False), make_trial(pruner)

    def make() -> Cell:
        cell = {
            "difference": task.run((kept, kept), CPU, lambda: None),
            "divergence": divergence(task, kept),
        }
        network, x = bench.refitted(kept), bench.images.x_test[: bench.num_test]
        with torch.no_grad():
            pairs = [
                (bench.model(part), network(part)) for part in map(bench.images.inputs, x.split(64))
            ]
        dense, small = (torch.cat(side) for side in zip(*pairs, strict=True))
        right = small.argmax(1) == bench.images.labels_test[: bench.num_test]
        agree = small.argmax(1) == dense.argmax(1)
        return {
            **cell,
            "fresh_divergence": float(divergences(dense, small).mean()),
            "agreement": float(agree.double().mean()),
            "refit": float(right.double().mean()),
        }

    quality = bench.cells.once(f"quality/{name}", make)
    keys = ("difference", "divergence", "fresh_divergence", "agreement", "refit")
    macs = bench.pruner.costs.of("macs", found["widths"]) / bench.pruner.costs.dense("macs")
    cost = {key: found[key] for key in ("trials", "cpu_s", "wall_s")}
    facts = {"budget": f"{float(100 * budget):g} %", "side": side, "macs": macs}
    widths = {"widths": " ".join(map(str, found["widths"].values()))}
    return {**facts, **cost, **{key: quality[key] for key in keys}, **widths}


def main() -> None:
    """Measure what is not there yet, and keep all of it."""
    options = read_options(sys.argv[1:])
    with (
        tempfile.TemporaryDirectory() as folder,
        open_runtime(RuntimeSpec(kind="none", device="cpu")) as runtime,
    ):
        bench = open_bench(options, Path(folder) / "workspace", runtime)
        pruner = searched(bench, "least_squares", "least_squares", "")
        sides = [(budget, side) for budget in bench.budgets for side in SIDES]
        rows = [measure(bench, pruner, budget, side) for budget, side in sides]
    facts = ", ".join(f"{key} {value}" for key, value in bench.cells.facts.items())
    notes = [facts, *filter(None, [options.on_weights]), *NOTES]
    notes.append(f"{torch.get_num_threads()} threads; {load_average()}")
    command = "python -m tools.records.sizing " + shlex.join(sys.argv[1:])
    keep(options.name, command, rows, notes, by="budget")


if __name__ == "__main__":
    main()
