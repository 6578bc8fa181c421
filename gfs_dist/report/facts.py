"""The facts that pages and plots show, read once from the records of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

from gfs_dist.records import (
    OWN_ROWS,
    LayerRow,
    Measured,
    PathFile,
    Paths,
    RankTiming,
    Report,
    ResultRow,
    read_path,
    read_report,
)

# Losses are recorded from sums whose rounding depends on the method; far below any difference
# that means something.
ROUNDING = 1e-9

TRAINS = ("pretrain", "finetune")

TEXT_MEASURES = {
    "perplexity": "Perplexity",
    "kl": "Divergence from the dense network (KL)",
    "cosine": "Cosine to the dense network",
}
"""How well networks of text do, in words."""


class Speed(NamedTuple):
    """Seconds of a forward pass of ``batch`` inputs; ``ratio``: how many times as fast as dense."""

    batch: int
    device: str
    pruned_s: float
    dense_s: float

    @property
    def condition(self) -> str:
        return f"at batch {self.batch} on {self.device}"

    @property
    def ratio(self) -> float:
        return self.dense_s / self.pruned_s


@dataclass(frozen=True)
class Result:
    """One pruned network beside the dense one it came from; None where a fact does not exist.

    Attributes:
        row: the result as report.json has it.
        dense: what was measured of the dense network: by the result itself, else in the report
            (deep networks) or on the path (two layers).
        paths: of its search, by layer; of a network with two layers a single one.
        deep: whether it was pruned layer by layer.
    """

    row: ResultRow
    dense: Measured
    paths: Mapping[str, PathFile]

    @property
    def name(self) -> str:
        return self.row["name"]

    @property
    def label(self) -> str:
        iteration = self.row["iteration"]
        return self.name if iteration is None else f"{iteration:,} iterations"

    @property
    def deep(self) -> bool:
        return bool(self.row["layers"])

    @property
    def prunable(self) -> list[LayerRow]:
        """Rows of the layers that could be pruned, in forward order."""
        return [layer for layer in self.row["layers"] if not layer["reason"]]

    @property
    def skipped(self) -> list[LayerRow]:
        """Rows of the layers that stay whole, in forward order."""
        return [layer for layer in self.row["layers"] if layer["reason"]]

    @property
    def accuracy_after(self) -> dict[str, float]:
        """Accuracy after each stage that was done: cut, refit, batch_norm, finetune."""
        stages = self.row["accuracy_after"].items()
        return {stage: share for stage, share in stages if share is not None}

    @property
    def text_quality_after(self) -> dict[str, dict[str, float]]:
        """By measure of networks of text what it was after each stage that was done."""
        found = {measure: self.row.get(f"{measure}_after") for measure in TEXT_MEASURES}
        stages = {measure: cast(Mapping[str, Any], x) for measure, x in found.items() if x}
        return {m: {s: x for s, x in of.items() if x is not None} for m, of in stages.items()}

    @property
    def of_text(self) -> bool:
        """Whether the network was measured on text."""
        return bool(self.text_quality_after)

    @property
    def path(self) -> PathFile | None:
        """One of its paths, for the facts that all of them share; None if the run has none."""
        return next(iter(self.paths.values()), None)

    @property
    def losses(self) -> list[float]:
        """Of a network with two layers, the loss after each pick."""
        return self.path["loss"] if self.path and not self.deep else []

    @cached_property
    def distinct(self) -> list[int]:
        """Of a network with two layers, distinct neurons after each pick."""
        return _distinct(self.path["picks"]) if self.path and not self.deep else []

    @property
    def num_neurons(self) -> int | None:
        """Neurons of the dense network; of a deep one the channels that could go."""
        if self.deep:
            return sum(layer["channels"] for layer in self.prunable)
        return self.path["neurons"] if self.path else None

    @property
    def bound(self) -> list[float]:
        """Lemma 1's bound after each pick; empty where the lemma says nothing."""
        bound = self.row["theory"].get("bound") or []
        return bound[: len(self.losses)] if len(bound) >= len(self.losses) else []

    @property
    def first_above_bound(self) -> int | None:
        """The first pick after which the loss is above Lemma 1's bound; None if it never is."""
        pairs = zip(self.losses, self.bound, strict=True)
        for k, (value, bound) in enumerate(pairs, start=1):
            if value > bound + ROUNDING * max(bound, self.losses[0]):
                return k
        return None

    @property
    def speeds(self) -> list[Speed]:
        """Both latencies wherever the dense network was timed under the same conditions."""
        dense = {(row["device"], row["batch"]): row for row in self.dense["latency"]}
        return [
            Speed(row["batch"], row["device"], row["median_s"], whole["median_s"])
            for row in self.row["latency"]
            if (whole := dense.get((row["device"], row["batch"]))) is not None
        ]

    @cached_property
    def curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """Distinct neurons (or channels) of each path and the loss with them, by layer.

        Each number of neurons has the loss of the last pick before a further neuron came in:
        what pruning to that number gives. It is in the unit that makes layers comparable, where
        the path names one.
        """
        curves = {}
        for layer, path in self.paths.items():
            losses = [loss / (path.get("unit") or 1.0) for loss in path["loss"]]
            curve = dict(zip(_distinct(path["picks"]), losses, strict=True))
            curves[layer] = list(curve), list(curve.values())
        return curves


@dataclass(frozen=True)
class Run:
    """The facts of one run, for its pages and plots.

    Attributes:
        report: with what older versions lack filled in.
        results: networks that were made, in the order of the report; of jobs in OWN_ROWS none.
    """

    report: Report
    results: Sequence[Result]

    @classmethod
    def read(cls, content: Mapping[str, Any], paths: Paths) -> Run:
        report = read_report(content)
        rows = [] if report["job"] in OWN_ROWS else report["results"]
        results = []
        for row in rows:
            stored = paths.get(row["name"], {}).items()
            own = {layer: read_path(path) for layer, path in stored}
            dense: dict[str, Any] = {**dict.fromkeys(Measured.__annotations__), "latency": []}
            if row["layers"]:
                dense |= report["dense"] or {}
            dense |= row["dense"]
            result = Result(row, cast(Measured, dense), own)
            if dense["loss"] is None and result.path is not None and not result.deep:
                dense["loss"] = result.path["dense_loss"]
            results.append(result)
        return cls(report, results)

    @property
    def deep(self) -> list[Result]:
        return [result for result in self.results if result.deep]

    @property
    def layered(self) -> bool:
        """Whether all results were: the page then has tables of layers."""
        return bool(self.results) and len(self.deep) == len(self.results)

    def table(self, title: str) -> list[Mapping[str, Any]]:
        """The rows of a table of the report; none of a run that has no such table, or failed."""
        return [*(self.report.get("tables") or {}).get(title, [])]

    @property
    def ranks(self) -> list[RankTiming]:
        return self.report["timing"]["ranks"]

    @property
    def training(self) -> list[tuple[int, float]]:
        """Iteration and accuracy of each checkpoint of a job that trains; of another job none."""
        return self.training_by("accuracy")

    def training_by(self, key: str) -> list[tuple[int, float]]:
        """The same with ``accuracy_train``, where checkpoints have that."""
        rows = self.report["results"]
        if self.report["job"] not in TRAINS or not rows:
            return []
        points = rows[-1].get("checkpoints") or rows
        return [
            (iteration, accuracy)
            for point in points
            if (iteration := point["iteration"]) is not None
            and (accuracy := cast(float | None, point.get(key))) is not None
        ]


def share(part: float | None, whole: float | None) -> float | None:
    """``part`` of ``whole`` where both exist."""
    return part / whole if part is not None and whole else None


def time_split(rank: RankTiming) -> dict[str, float]:
    """Where a rank's time went, in seconds that add up: exchange is without the wait in it.

    In report.json a rank's ``exchange_s`` is all its time inside exchanges, ``wait_s`` the part
    of it that it spent waiting for slower ranks.
    """
    wait_s, exchange_s = rank.get("wait_s"), rank.get("exchange_s")
    split = {
        "set-up": rank.get("setup_s"),
        "joining": rank.get("join_s"),
        "compute": rank.get("compute_s"),
        "exchange": None if exchange_s is None else exchange_s - (wait_s or 0.0),
        "wait": wait_s,
    }
    return {name: seconds for name, seconds in split.items() if seconds is not None}


def _distinct(picks: Sequence[int]) -> list[int]:
    seen: set[int] = set()
    numbers = []
    for pick in picks:
        seen.add(pick)
        numbers.append(len(seen))
    return numbers
