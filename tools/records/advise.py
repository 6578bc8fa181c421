"""How often the rule of ``gfs advise`` is wrong: ``python -m tools.records.advise``.

``python -m tools.records.advise series`` first trains small networks on digits and MNIST and keeps
their series; those of ``gfs reproduce experiment=figure1`` are read where they are kept.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gfs_dist import data, networks, select
from gfs_dist.data import DataSpec
from gfs_dist.files import atomic
from gfs_dist.networks import TwoLayer
from gfs_dist.records import SeriesFacts, SeriesRow
from gfs_dist.theory import Rule
from gfs_dist.theory.enough import THRESHOLD
from gfs_dist.training import TrainSpec, TrainState, default_lr, train
from tools.records.record import FOLDER, keep

OWN = FOLDER / "advise_series.json"
FILES = (OWN, *sorted(FOLDER.glob("figure1*.json")))
CLOSE = 0.002
"""Of the best pruned accuracy on training data in the whole series: trained enough."""

EVERY = (0, 250, 500, 1000)
"""Spacings that a series is judged with: 0 as it is, else multiples of so many iterations."""

THRESHOLDS = (0.0005, 0.001, 0.002, 0.005, 0.01)
CHECKPOINTS = frozenset(
    [*range(0, 400, 50), *range(400, 1000, 100), *range(1000, 3000, 250), 3000, 3500, 4000]
)
MNIST = Path("../shared/data/mnist")
Fires = Callable[[Sequence[SeriesRow]], Sequence[bool]]


def read_series(files: Sequence[Path]) -> dict[str, list[SeriesRow]]:
    """Series by name: of rows with ``series``, or with the keys of a cell of figure 1."""
    found: dict[str, list[SeriesRow]] = {}
    for file in files:
        content = json.loads(file.read_text())
        for row in content if isinstance(content, list) else content["results"]:
            keys = ("rule", "width", "samples", "trial")
            name = row.get("series") or " ".join(f"{key}={row.get(key)}" for key in keys)
            found.setdefault(name, []).append(_series_row(row))
    return {name: sorted(rows, key=lambda row: row["iteration"]) for name, rows in found.items()}


def _series_row(row: dict[str, Any]) -> SeriesRow:
    def facts(before: str) -> SeriesFacts:
        return {
            "loss": row[f"{before}loss"],
            "accuracy_train": row[f"{before}accuracy_train"],
            "accuracy": row[f"{before}accuracy"],
            "accuracy_held_out": row[f"{before}accuracy"],
        }

    return {
        "iteration": row["iteration"],
        **facts(""),
        "dense": facts("dense_"),
        "gain": None,
        "rise": None,
        "overlap": None,
        "enough": False,
    }


def gained_little(threshold: float) -> Fires:
    """The plain rule: less than ``threshold`` since the checkpoint before, iteration 0 apart."""

    def fires(rows: Sequence[SeriesRow]) -> list[bool]:
        said = [False]
        for before, row in itertools.pairwise(rows):
            gain = row["accuracy_train"] - before["accuracy_train"]
            said.append(before["iteration"] > 0 and gain < threshold)
        return said

    return fires


def judged(series: Sequence[list[SeriesRow]], fires: Fires) -> dict[str, Any]:
    """What stopping by a rule costs, over all series and all spacings of each."""
    ratios, missed, test, early = [], [], [], 0
    cases = [case for rows in series for case in _spacings(rows)]
    for rows in cases:
        trained = [row for row in rows if row["iteration"] > 0]
        best = max(row["accuracy_train"] for row in trained)
        enough = next(row for row in trained if best - row["accuracy_train"] < CLOSE)
        stop = next((row for row, said in zip(rows, fires(rows), strict=True) if said), None)
        if stop is None:
            continue
        ratios.append(stop["iteration"] / enough["iteration"])
        missed.append(100 * (best - stop["accuracy_train"]))
        test.append(100 * (trained[-1]["accuracy"] - stop["accuracy"]))
        early += best - stop["accuracy_train"] >= CLOSE
    if not ratios:
        return {"cases": len(cases), "fired": 0, "early": 0}
    return {
        "cases": len(cases),
        "fired": len(ratios),
        "early": early,
        "fired / enough": round(statistics.mean(ratios), 2),
        "regret, points": round(statistics.mean(missed), 3),
        "worst": round(max(missed), 2),
        "test regret": round(statistics.mean(test), 3),
        "worst on test": round(max(test), 2),
    }


def _spacings(rows: list[SeriesRow]) -> Iterator[list[SeriesRow]]:
    for every in EVERY:
        kept = [row for row in rows if not every or row["iteration"] % every == 0]
        if sum(row["iteration"] > 0 for row in kept) > 2 and (not every or len(kept) < len(rows)):
            yield kept


def main() -> None:
    """Judge all series that the records hold; keep what was found."""
    series = read_series([file for file in FILES if file.is_file()])
    names = sorted(series)
    digits = [name for name in names if "data=digits" in name]
    others = [name for name in names if name not in digits]
    parts = {"digits, first half": digits[::2], "digits, second half": digits[1::2]}
    parts["MNIST"] = others
    ours = Rule()
    rules: dict[str, Fires] = {
        "gained < 0.2 points since the checkpoint before": gained_little(0.002),
        **{f"ours, {100 * t:g} points": replace(ours, threshold=t).fired for t in THRESHOLDS},
        "ours, training grown by 1.5": replace(ours, growth=1.5).fired,
        "ours, two in a row": replace(ours, in_a_row=2).fired,
    }
    rows = [
        {"series": half, "rule": name, **judged([series[one] for one in of], fires)}
        for half, of in parts.items()
        for name, fires in rules.items()
    ]
    chosen = [row for row in rows if row["rule"] == f"ours, {100 * THRESHOLD:g} points"]
    fired, early = (sum(row[key] for row in chosen[1:]) for key in ("fired", "early"))
    notes = [
        f"{len(series)} series, each with up to {len(EVERY)} spacings of its checkpoints",
        "enough: the first checkpoint within 0.2 points of the series' best pruned accuracy on "
        "training data; early: the rule stopped below that; regret: how far below the best",
        "test regret: what training to the end of the series adds to the pruned network's accuracy "
        "on the test split",
        "form and threshold of the rule were chosen on digits, the threshold on the first half "
        f"(every other series by name); on the others {early} of {fired} stops were early",
    ]
    keep("advise", "python -m tools.records.advise", rows, notes, by="series")


def settings() -> Iterator[dict[str, Any]]:
    """The networks whose series are kept."""
    for objective, width, samples, activation, method in itertools.product(
        ("squared", "bce"), (100, 200, 400), (200, 500, 1437), ("tanh", "relu"), ("gd", "sgd")
    ):
        yield {"data": "digits", "objective": objective, "width": width, "samples": samples,
               "activation": activation, "method": method}  # fmt: skip
    for objective, width, samples in itertools.product(
        ("bce", "squared"), (200, 400), (1000, 3000, 8000)
    ):
        yield {"data": "mnist", "objective": objective, "width": width, "samples": samples,
               "activation": "relu", "method": "sgd"}  # fmt: skip


def train_series(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one network: trained, and pruned at each checkpoint by half its neurons' picks."""
    objective, width, mnist = setting["objective"], setting["width"], setting["data"] == "mnist"
    root = str(MNIST) if mnist else None
    found = data.load(DataSpec(name=setting["data"], samples=setting["samples"], root=root))
    target = data.target(found.labels_train, objective)
    test_target = data.target(found.labels_test, objective)
    network = TwoLayer.initialise(width, found.features, setting["activation"], 0)
    spec = TrainSpec(
        iterations=4000 if mnist else 3000,
        lr=0.4 * width if mnist else None,
        batch=32,
        method=setting["method"],
        checkpoint_every=50,
    )
    if spec.lr is None:
        spec = replace(spec, lr=default_lr(network, found.x_train, objective, spec))
    rows = []

    def facts(before: str, network: TwoLayer) -> dict[str, float]:
        on_train, on_test = (networks.outputs(network, x) for x in (found.x_train, found.x_test))
        return {
            f"{before}loss": round(networks.mean_loss(on_train, target, objective), 7),
            f"{before}accuracy_train": round(networks.accuracy(on_train, target), 5),
            f"{before}accuracy": round(networks.accuracy(on_test, test_target), 5),
        }

    def on_checkpoint(iteration: int, network: TwoLayer, _: TrainState) -> None:
        if iteration in CHECKPOINTS:
            dense = TwoLayer(width, found.features, setting["activation"])
            dense.load_state_dict(network.state_dict())
            contributions = dense.contributions(found.x_train, torch.arange(width)).T
            path = select(contributions, target, steps=min(200, width // 2), loss=objective)
            small = dense.shrink(torch.as_tensor(path.coefficients(len(path.picks))))
            rows.append({"iteration": iteration, **facts("", small), **facts("dense_", dense)})

    x = found.x_train.float() if mnist else found.x_train
    network = network.float() if mnist else network
    train(network, x, target, objective, spec, on_checkpoint=on_checkpoint)
    name = " ".join(f"{key}={value}" for key, value in setting.items())
    return [{"series": name, **row} for row in rows]


def make_series() -> None:
    """Train and prune all networks of :func:`settings`; their rows are kept as they are made."""
    rows: list[dict[str, Any]] = []
    for setting in settings():
        rows += train_series(setting)
        print(rows[-1]["series"], flush=True)
        text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        atomic.write_text(OWN, f"[\n{text}\n]\n")


if __name__ == "__main__":
    make_series() if "series" in sys.argv[1:] else main()
