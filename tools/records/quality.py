"""Accuracy of cut networks before any fine-tuning: scores of others and our objectives.

python -m tools.records.quality MODEL WEIGHTS DATA_ROOT NAME --work FOLDER [--parts ...]

All networks meet the same limits on multiply-adds and are cut by the same code; only what they
keep differs. Every finished cell lies in FOLDER at once, so that parts can be measured one after
another; the part ``record`` then writes NAME.json and NAME.md from all cells in FOLDER.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from gfs_dist.config.compose import compose
from gfs_dist.data import Images
from gfs_dist.data.balanced import calibration_rows
from gfs_dist.files import checkpoint, fingerprint
from gfs_dist.files.find import find_checkpoints
from gfs_dist.networks import classify
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.pruning.pruner import LayerPath, Pruner, Settings
from gfs_dist.pruning.repair.batch_norm import recalibrate
from gfs_dist.pruning.repair.stream_training import StreamSpec
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.widths.allocate import proportional
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.choose import by_curves, choose_widths
from gfs_dist.runtime import Runtime, RuntimeSpec, open_runtime
from gfs_dist.selection.path import GreedyPath
from gfs_dist.training import DeepSpec, train_deep
from gfs_dist.workflows.process import data_spec, local_device
from gfs_dist.workflows.stored_networks import read_images, read_network
from tools.records import baselines, quality_rows
from tools.records.record import Cell, Cells, keep

SCORES = tuple(baselines.IMPORTANCES)
OBJECTIVES = {
    "least_squares": ("",),
    "layer_output": ("uniform", "line_search"),
    "fisher": ("uniform", "line_search"),
    "network_loss": ("uniform",),  # line_search needs all candidates, three times over
}
RULES = ("measured", "curves", "same share", "shared")
PARTS = ("dense", *SCORES, *OBJECTIVES, "finetune", "streams", "record")
KEEPERS = {"local": baselines.keep_local, "global": baselines.keep_global}
BATCH = 64
TEST_BATCH = {"cpu": 50, "cuda": 1000}
"""On a CPU small, so that a batch's results stay in a core's cache."""


@dataclass
class Bench:
    """One trained network with its calibration and test images.

    Attributes:
        batches: calibration images and labels.
        num_test: how many of the test images are classified.
        pruner: of the network, without paths.
        budgets: shares of the whole network's multiply-adds.
        candidates: scored at each step of ``network_loss``.
        draws: of random scores; their mean counts.
        device: where networks are classified with and trained.
    """

    model: nn.Module
    images: Images
    batches: baselines.Batches
    num_test: int
    pruner: Pruner
    cells: Cells
    budgets: tuple[Fraction, ...]
    candidates: int
    draws: int
    device: torch.device

    def limit(self, budget: Fraction) -> int:
        return self.pruner.costs.limits(Budget({"macs": budget}))["macs"]

    def accuracy(self, network: nn.Module) -> float:
        """Share of the test images that are classified rightly."""
        size = TEST_BATCH[self.device.type]
        x = self.images.x_test[: self.num_test].split(size)
        labels = self.images.labels_test[: self.num_test].split(size)
        network = copy.deepcopy(network).to(self.device)
        batches = (
            (self.images.inputs(a.to(self.device)), b.to(self.device))
            for a, b in zip(x, labels, strict=True)
        )
        return classify(network, batches).accuracy

    def measure(self, what: str, facts: Cell, kept: KeptChannels) -> Cell:
        """The cell of one kept: ``cut``, or ``refit``."""
        name = "/".join([what, *map(str, facts.values())])
        make = self._cut if what == "cut" else self._refit
        return self.cells.once(name, lambda: {**facts, **make(kept)})

    def _cut(self, kept: KeptChannels) -> Cell:
        """Multiply-adds, and accuracy as cut and with batch norms measured again."""
        costs = self.pruner.costs
        macs = costs.of("macs", baselines.widths_of(kept.candidates)) / costs.dense("macs")
        network = self.pruner.cut(kept).to(self.device)
        row = {"macs": macs, "cut": self.accuracy(network)}
        recalibrate(network, (x for x, _ in self.batches))
        return {**row, "batch_norm": self.accuracy(network)}

    def _refit(self, kept: KeptChannels) -> Cell:
        return {"refit": self.accuracy(self.refitted(kept))}

    def refitted(self, kept: KeptChannels) -> GraphNetwork:
        """The network with every layer after a cut fitted again."""
        folder = tempfile.mkdtemp(dir=self.pruner.workspace.folder)
        return self.pruner.refit(kept, Path(folder).name)[0]


def inner_shares(pruner: Pruner, shares: Sequence[str]) -> tuple[Fraction, ...]:
    """Shares of what the widths can change as shares of the whole, rounded down to 0.1 %."""
    cost = pruner.costs.kinds["macs"]
    fixed = Fraction(cost(np.zeros_like(cost.linear)), pruner.costs.dense("macs"))
    return tuple(
        Fraction(int(1000 * (fixed + Fraction(share) * (1 - fixed))), 1000) for share in shares
    )


def measure_score(bench: Bench, name: str) -> None:
    """A score of torch-pruning with both kinds of widths; the better one is refitted."""
    draws = range(bench.draws if name == "random" else 1)
    scores = [_scores(bench, name, draw) for draw in draws]
    for budget in bench.budgets:
        cuts = {}
        for widths, keeper in KEEPERS.items():
            for draw in draws:
                kept = KeptChannels(keeper(scores[draw], bench.pruner.costs, bench.limit(budget)))
                facts = {**_facts(budget, name, widths), "draw": draw}
                cuts[widths, draw] = facts, kept, bench.measure("cut", facts, kept)
        better = max(
            KEEPERS, key=lambda widths: sum(cuts[widths, draw][2]["batch_norm"] for draw in draws)
        )
        for draw in draws:
            bench.measure("refit", *cuts[better, draw][:2])


def _scores(bench: Bench, name: str, draw: int) -> baselines.Scores:
    def make() -> Cell:
        structure = bench.pruner.structure
        found = baselines.score(name, bench.model, structure, bench.batches, draw)
        return {"scores": {layer: values.tolist() for layer, values in found.items()}}

    cell = bench.cells.once(f"scores/{name}/{draw}", make)
    return {
        layer: torch.tensor(values, dtype=torch.float64) for layer, values in cell["scores"].items()
    }


def measure_objective(bench: Bench, objective: str, rules: Sequence[str]) -> None:
    """One of our objectives with each of its step weights and each width rule, all refitted."""
    for weights in OBJECTIVES[objective]:
        name = f"{objective}, {weights}" if weights else objective
        pruner = searched(bench, name, objective, weights)
        for budget in bench.budgets:
            for rule in rules:
                widths = _widths(bench, pruner, name, rule, budget)
                kept = pruner.keep(widths, fold=objective != "least_squares")
                facts = _facts(budget, name, rule)
                bench.measure("cut", facts, kept)
                bench.measure("refit", facts, kept)


def searched(bench: Bench, name: str, objective: str, weights: str) -> Pruner:
    """The pruner with the paths of all layers."""
    candidates = bench.candidates if objective == "network_loss" else None
    settings = Settings(objective, weights or "uniform", candidates=candidates)
    pruner = dataclasses.replace(bench.pruner, settings=settings, paths={})

    def make() -> Cell:
        pruner.search()
        found = pruner.paths.items()
        return {"paths": {layer: dataclasses.asdict(path) for layer, path in found}}

    paths = bench.cells.once(f"search/{name}", make)["paths"]
    for layer, found in paths.items():
        pruner.paths[layer] = LayerPath(**{**found, "path": GreedyPath(**found["path"])})
    return pruner


def _widths(bench: Bench, pruner: Pruner, name: str, rule: str, budget: Fraction) -> dict[str, int]:
    limit = bench.limit(budget)
    if rule == "shared":
        return dict(bench.cells.found[f"widths/least_squares/measured/{budget}"]["widths"])
    most = {layer: len(found.curve) for layer, found in pruner.paths.items()}
    makers: dict[str, Callable[[], Mapping[str, int]]] = {
        "measured": lambda: choose_widths(pruner, Budget({"macs": budget})).widths,
        "curves": lambda: by_curves(pruner, {"macs": limit}),
        "same share": lambda: proportional(pruner.costs, {"macs": limit}, most=most),
    }
    cell = bench.cells.once(
        f"widths/{name}/{rule}/{budget}", lambda: {"widths": dict(makers[rule]())}
    )
    return dict(cell["widths"])


def measure_tuned(bench: Bench, spec: DeepSpec) -> None:
    """Our default and the score that is best recalibrated, trained on alike from there."""
    for budget in bench.budgets:
        pruner = searched(bench, "least_squares", "least_squares", "")
        widths = _widths(bench, pruner, "least_squares", "measured", budget)
        ours = pruner.keep(widths, fold=False)
        _tune(bench, spec, _facts(budget, "least_squares", "measured"), bench.refitted(ours))
        facts = quality_rows.best_score(bench.cells.found, _facts(budget, "", "")["budget"])
        if facts is None:
            continue
        scores = _scores(bench, facts["method"], facts["draw"])
        kept = KEEPERS[facts["widths"]](scores, bench.pruner.costs, bench.limit(budget))
        network = bench.pruner.cut(KeptChannels(kept)).to(bench.device)
        recalibrate(network, (x for x, _ in bench.batches))
        _tune(bench, spec, facts, network)


def _tune(bench: Bench, spec: DeepSpec, facts: Cell, network: nn.Module) -> None:
    def make() -> Cell:
        train_deep(network.requires_grad_().to(bench.device), bench.images, spec)
        return {**facts, "finetune": bench.accuracy(network.eval()), "iterations": spec.iterations}

    bench.cells.once("/".join(["finetune", *map(str, facts.values())]), make)


def measure_streams(
    bench: Bench, inner: Sequence[str], steps: Sequence[int], tunings: Sequence[DeepSpec]
) -> None:
    """Our default refitted, its streams repaired from there, and each of these trained on."""
    pruner = searched(bench, "least_squares", "least_squares", "")
    for share, budget in zip(inner, bench.budgets, strict=True):
        widths = _widths(bench, pruner, "least_squares", "measured", budget)
        kept = pruner.keep(widths, fold=False)
        start: GraphNetwork | None = None
        for number in (0, *steps):
            facts = {"inner": share, "whole": float(budget), "steps": number}
            network, kept = _repaired(bench, kept, facts, start)
            start = start or network
            for spec in tunings:
                _tune_repaired(bench, network, facts, spec)


def _repaired(
    bench: Bench, kept: KeptChannels, facts: Cell, start: GraphNetwork | None
) -> tuple[GraphNetwork, KeptChannels]:
    """The network refitted, channels picked again, or ``start`` after the steps on its streams.

    Weights are kept in a file, channels in the cell.
    """
    name = f"streams/{facts['inner']}/{facts['steps']}"
    file = bench.cells.path.parent / f"{name.replace('/', '_')}.safetensors"

    def make() -> Cell:
        pruner, began, channels = bench.pruner, time.perf_counter(), kept
        if start is None:
            folder = Path(tempfile.mkdtemp(dir=pruner.workspace.folder)).name
            small, channels = pruner.refit(kept, folder, reselect=True)
        else:
            state = pruner.workspace.subfolder("states") / file.name
            small = pruner.repair_streams(start, kept, StreamSpec(facts["steps"]), state)
        took = time.perf_counter() - began
        checkpoint.write_tensors(file, small.state_dict())
        found = {"repair_s": took, "accuracy": bench.accuracy(small)}
        return {**facts, **found, "kept": dict(channels.candidates)}

    cell = bench.cells.once(name, make)
    channels = KeptChannels({layer: tuple(picks) for layer, picks in cell["kept"].items()})
    network = bench.pruner.cut(channels)
    network.load_state_dict(load_file(file))
    return network, channels


def _tune_repaired(bench: Bench, network: GraphNetwork, facts: Cell, spec: DeepSpec) -> None:
    def make() -> Cell:
        tuned = copy.deepcopy(network).requires_grad_().to(bench.device)
        train_deep(tuned, bench.images, spec)
        return {**facts, "tuned": bench.accuracy(tuned.eval()), "for": spec.iterations}

    bench.cells.once(f"tuned/{facts['inner']}/{facts['steps']}/{spec.iterations}", make)


def _facts(budget: Fraction, method: str, widths: str) -> Cell:
    return {"budget": f"{float(100 * budget):g} %", "method": method, "widths": widths}


def open_bench(options: argparse.Namespace, pruner_folder: Path, runtime: Runtime) -> Bench:
    """Read network and images, and find out whether the folder's cells are of the same ones."""
    words = ["path=-", f"model={options.model}", "data=cifar10", f"data.root={options.data_root}"]
    config = compose("evaluate", words)
    images = read_images(data_spec(config.data))
    model = read_network(find_checkpoints(options.weights)[-1][1], config.model, images)
    rows = calibration_rows(images.labels_train, options.samples, 0)
    num_test = min(options.test_images, len(images.x_test))
    x, labels = images.inputs(images.x_train[rows]), images.labels_train[rows]
    batches = list(zip(x.split(BATCH), labels.split(BATCH), strict=True))
    pruner = Pruner.prepare(model, batches, Settings(), runtime, pruner_folder)
    budgets = inner_shares(pruner, options.budgets)
    options.work.mkdir(parents=True, exist_ok=True)
    facts = {
        "model": options.model,
        "weights_sha256": fingerprint(*model.state_dict().values()),
        "data_sha256": images.fingerprint,
        "samples": len(rows),
        "test_images": num_test,
        "candidates": options.candidates,
    }
    cells = Cells(options.work / "cells.json", facts)
    return Bench(
        model,
        images,
        batches,
        num_test,
        pruner,
        cells,
        budgets,
        options.candidates,
        options.draws,
        local_device(options.device),
    )


def write(cells: Cells, name: str, on_weights: str | None) -> None:
    """The record of all cells there are."""
    rows = quality_rows.make_rows(cells.found)
    notes = [
        ", ".join(f"{key} {value}" for key, value in cells.facts.items()),
        *([on_weights] if on_weights else []),
        *quality_rows.NOTES,
        *quality_rows.sources(cells.found),
        *quality_rows.tuning(cells.found),
        quality_rows.findings(cells.found),
    ]
    command = "python -m tools.records.quality " + shlex.join(sys.argv[1:])
    tables = {"repair of streams": quality_rows.stream_rows(cells.found)}
    found = [*rows, *quality_rows.phases(cells.found)]
    keep(name, command, found, notes, by="budget", tables={k: v for k, v in tables.items() if v})


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.records.quality")
    parser.add_argument("model", help="of the catalog, as resnet20_cifar")
    parser.add_argument("weights", help="a .safetensors file, a checkpoint or a run folder")
    parser.add_argument("data_root", help="folder of CIFAR-10")
    parser.add_argument("name", help="of the record")
    parser.add_argument("--work", type=Path, required=True, help="folder of finished cells")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--budgets",
        nargs="+",
        default=["0.75", "0.5", "0.35"],
        help="shares of the multiply-adds that widths can change",
    )
    parser.add_argument(
        "--rules",
        nargs="+",
        choices=RULES,
        help="of our widths; default: measured, and all for least_squares",
    )
    parser.add_argument("--on-weights", help="a sentence for the record: how they were trained")
    parser.add_argument("--samples", type=int, default=1024, help="calibration images")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=2500, help="of fine-tuning")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[200, 600], help="of repairs of streams"
    )
    parser.add_argument(
        "--tune", type=int, nargs="*", default=[300], help="iterations of fine-tuning after them"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", action="store_true", help="fine-tune in bfloat16")
    parser.add_argument("--draws", type=int, default=3, help="of random scores")
    parser.add_argument("--candidates", type=int, default=8, help="a step of network_loss scores")
    return parser.parse_args(words)


def main() -> None:
    """Measure the parts asked for that are not there yet."""
    options = read_options(sys.argv[1:])
    with (
        tempfile.TemporaryDirectory() as folder,
        open_runtime(RuntimeSpec(kind="none", device=options.device)) as runtime,
    ):
        bench = open_bench(options, Path(folder) / "workspace", runtime)
        for part in options.parts:
            if part == "dense":
                bench.cells.once("dense", lambda: {"accuracy": bench.accuracy(bench.model)})
            elif part in SCORES:
                measure_score(bench, part)
            elif part == "finetune":
                measure_tuned(bench, DeepSpec(options.iterations, lr=0.01, amp=options.amp))
            elif part == "streams":
                tunings = [DeepSpec(n, lr=0.01, amp=options.amp) for n in options.tune]
                measure_streams(bench, options.budgets, options.steps, tunings)
            elif part in OBJECTIVES:
                default = RULES[:3] if part == "least_squares" else RULES[:1]
                measure_objective(bench, part, options.rules or default)
        if "record" in options.parts:
            write(bench.cells, options.name, options.on_weights)


if __name__ == "__main__":
    main()
