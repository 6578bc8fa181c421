"""The facts that pages and plots show, read once from the plain dicts of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Losses are recorded from sums whose rounding depends on the method; far below any difference
# that means something.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Result:
    """One pruned network beside the dense one it came from; None where a fact does not exist.

    Attributes:
        row: the result as report.json has it.
        losses: loss after each pick.
        distinct: distinct neurons after each pick.
        num_neurons: neurons of the dense network.
        num_samples: samples that were pruned on.
        weights: rule of the step weights.
        bound: Lemma 1's bound after each pick; empty where the lemma says nothing.
    """

    row: Mapping[str, Any]
    losses: Sequence[float] = ()
    distinct: Sequence[int] = ()
    num_neurons: int | None = None
    num_samples: int | None = None
    weights: str | None = None
    bound: Sequence[float] = ()
    dense: Mapping[str, Any] = field(default_factory=dict)

    @property
    def iteration(self) -> int | None:
        """Iterations of pre-training before it was pruned."""
        return self.row.get("iteration")

    @property
    def label(self) -> str:
        """Short words for a legend or a row."""
        if self.iteration is None:
            return str(self.row.get("name", "result"))
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

    def by_distinct(self) -> tuple[list[int], list[float]]:
        """The curve of losses against distinct neurons.

        Each number of neurons has the loss of the last pick before a further neuron came in:
        what pruning to that number gives.
        """
        curve = dict(zip(self.distinct, self.losses, strict=True))
        return list(curve), list(curve.values())


def results(report: Mapping[str, Any], paths: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """The results of a report in its order, each with its path (by the result's name)."""
    return [_result(row, paths.get(row.get("name", ""), {})) for row in report.get("results", [])]


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


def _distinct(picks: Sequence[int]) -> list[int]:
    seen: set[int] = set()
    numbers = []
    for pick in picks:
        seen.add(pick)
        numbers.append(len(seen))
    return numbers
