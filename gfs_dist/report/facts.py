"""The facts that pages and plots show, read once from the plain dicts of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Losses are recorded from sums whose rounding depends on the method; far below any difference
# that means something.
ROUNDING = 1e-9


Curve = tuple[list[int], list[float]]
"""Distinct neurons or channels, and the loss with them."""


TRAINS = ("pretrain", "finetune")


class Speed(NamedTuple):
    """Seconds of a forward pass of ``batch`` inputs: the pruned network's, the dense one's."""

    batch: int
    device: str
    pruned_s: float
    dense_s: float


@dataclass(frozen=True)
class Result:
    """One pruned network beside the dense one it came from; None where a fact does not exist.

    Attributes:
        row: the result as report.json has it.
        losses: loss after each pick.
        distinct: distinct neurons after each pick.
        num_neurons: neurons of the dense network; of a deep one the channels that could go.
        num_samples: samples that were pruned on.
        weights: rule of the step weights.
        bound: Lemma 1's bound after each pick; empty where the lemma says nothing.
        dense: loss and accuracy of the dense network; of a deep one also macs, params,
            ``file_bytes`` and ``latency`` (rows ``batch device median_s``), where measured.
        curves: of a deep network, by layer, channels kept and the error with them.
    """

    row: Mapping[str, Any]
    losses: Sequence[float] = ()
    distinct: Sequence[int] = ()
    num_neurons: int | None = None
    num_samples: int | None = None
    weights: str | None = None
    bound: Sequence[float] = ()
    dense: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the run calls it."""
        return str(self.row.get("name", "result"))

    @property
    def accuracy_after(self) -> dict[str, float]:
        """Accuracy after each stage that was done: cut, refit, batch_norm, finetune."""
        stages: Mapping[str, Any] = self.row.get("accuracy_after") or {}
        return {stage: share for stage, share in stages.items() if share is not None}

    @property
    def deep(self) -> bool:
        """Whether it was pruned layer by layer."""
        return bool(self.row.get("layers"))

    @property
    def prunable(self) -> list[Mapping[str, Any]]:
        """Rows of the layers that could be pruned, in forward order."""
        return [layer for layer in self.row.get("layers") or [] if not layer.get("reason")]

    @property
    def skipped(self) -> list[Mapping[str, Any]]:
        """Rows of the layers that stay whole, in forward order."""
        return [layer for layer in self.row.get("layers") or [] if layer.get("reason")]

    def share(self, key: str) -> float | None:
        """Share of the dense network's ``macs`` or ``params`` that is left."""
        part, whole = self.row.get(key), self.dense.get(key)
        return part / whole if part is not None and whole else None

    @property
    def speeds(self) -> list[Speed]:
        """Both latencies wherever the dense network was timed under the same conditions."""
        dense = {(row["device"], row["batch"]): row for row in self.dense.get("latency") or []}
        return [
            Speed(row["batch"], row["device"], row["median_s"], whole["median_s"])
            for row in self.row.get("latency") or []
            if (whole := dense.get((row["device"], row["batch"]))) is not None
        ]

    @property
    def iteration(self) -> int | None:
        """Iterations of pre-training before it was pruned."""
        return self.row.get("iteration")

    @property
    def label(self) -> str:
        """Short words for a legend or a row."""
        if self.iteration is None:
            return self.name
        return f"{self.iteration:,} iterations"

    @property
    def kept_share(self) -> float | None:
        """Share of the dense network's neurons that is kept."""
        kept = self.row.get("kept")
        return kept / self.num_neurons if kept is not None and self.num_neurons else None

    @property
    def loss(self) -> float | None:
        """Loss of the pruned network."""
        return self.row.get("loss")

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the pruned network on the test split."""
        return self.row.get("accuracy")

    @property
    def dense_loss(self) -> float | None:
        """Loss of the dense network."""
        return self.dense.get("loss")

    @property
    def dense_accuracy(self) -> float | None:
        """Accuracy of the dense network on the test split."""
        return self.dense.get("accuracy")

    @property
    def theory(self) -> Mapping[str, Any]:
        """Lemma 1's measured constants; empty where the lemma says nothing."""
        return self.row.get("theory") or {}

    @property
    def first_above_bound(self) -> int | None:
        """The first pick after which the loss is above Lemma 1's bound; None if it never is."""
        pairs = zip(self.losses, self.bound, strict=True)
        for k, (value, bound) in enumerate(pairs, start=1):
            if value > bound + ROUNDING * max(bound, self.losses[0]):
                return k
        return None

    def by_distinct(self) -> Curve:
        """The curve of losses against distinct neurons.

        Each number of neurons has the loss of the last pick before a further neuron came in:
        what pruning to that number gives.
        """
        return _curve(self.distinct, self.losses)


def results(report: Mapping[str, Any], paths: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """The results of a report in its order, each with its path, or its paths by layer."""
    found = []
    for row in report.get("results", []):
        content = paths.get(row.get("name", ""), {})
        found.append(
            _deep_result(report, row, content) if row.get("layers") else _result(row, content)
        )
    return found


def training(report: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Iteration and accuracy of each checkpoint of a job that trains; of another job none."""
    if report.get("job") not in TRAINS:
        return []
    rows = report.get("results", [])
    points = rows[-1].get("checkpoints", rows) if rows else []
    return [(p["iteration"], p["accuracy"]) for p in points if p.get("accuracy") is not None]


def time_split(rank: Mapping[str, Any]) -> dict[str, float]:
    """Where a rank's time went, in seconds that add up: exchange is without the wait in it.

    In report.json a rank's ``exchange_s`` is all its time inside exchanges, ``wait_s`` the part
    of it that it spent waiting for slower ranks.
    """
    split = {
        name: rank[key]
        for name, key in (("set-up", "setup_s"), ("joining", "join_s"), ("compute", "compute_s"))
        if rank.get(key) is not None
    }
    if rank.get("exchange_s") is not None:
        split["exchange"] = rank["exchange_s"] - (rank.get("wait_s") or 0.0)
    if rank.get("wait_s") is not None:
        split["wait"] = rank["wait_s"]
    return split


def _result(row: Mapping[str, Any], path: Mapping[str, Any]) -> Result:
    losses = path.get("loss", [])
    bound = (row.get("theory") or {}).get("bound") or []
    dense = dict(row.get("dense") or {})
    if dense.get("loss") is None:
        dense["loss"] = path.get("dense_loss")
    return Result(
        row=row,
        losses=losses,
        distinct=_distinct(path.get("picks", [])),
        num_neurons=path.get("neurons"),
        num_samples=path.get("samples"),
        weights=path.get("weights"),
        bound=bound[: len(losses)] if len(bound) >= len(losses) else [],
        dense=dense,
    )


def _deep_result(
    report: Mapping[str, Any], row: Mapping[str, Any], paths: Mapping[str, Mapping[str, Any]]
) -> Result:
    dense = {**(report.get("dense") or {}), **(row.get("dense") or {})}
    curves = {
        layer: _curve(_distinct(path.get("picks", [])), _errors(path))
        for layer, path in paths.items()
    }
    any_path: Mapping[str, Any] = next(iter(paths.values()), {})
    channels = [layer["channels"] for layer in row["layers"] if not layer.get("reason")]
    return Result(
        row=row,
        num_neurons=sum(channels),
        num_samples=any_path.get("samples"),
        weights=any_path.get("weights"),
        dense=dense,
        curves=curves,
    )


def _errors(path: Mapping[str, Any]) -> list[float]:
    """Losses in the unit that makes layers comparable, where the path names one."""
    unit = path.get("unit") or 1.0
    return [loss / unit for loss in path.get("loss", [])]


def _curve(distinct: Sequence[int], losses: Sequence[float]) -> Curve:
    curve = dict(zip(distinct, losses, strict=True))
    return list(curve), list(curve.values())


def _distinct(picks: Sequence[int]) -> list[int]:
    seen: set[int] = set()
    numbers = []
    for pick in picks:
        seen.add(pick)
        numbers.append(len(seen))
    return numbers
