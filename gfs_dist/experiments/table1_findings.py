"""What Table 1 shows: accuracies beside the published ones, and which of its claims hold."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gfs_dist.experiments.deep_rules import CONTROL, DIFFERENCES, RULES
from gfs_dist.experiments.fits import spread
from gfs_dist.experiments.grid import Findings, Row
from gfs_dist.experiments.published import TABLE_1, TABLE_1_CHECKPOINTS

MARGIN = 0.5
"""Points of accuracy within which a series is on its plateau."""


@dataclass(frozen=True)
class Series:
    """One training, pruned by one rule: accuracies in %.

    Attributes:
        pruned: after fine-tuning, by iteration (or epoch) of the checkpoint.
        dense: of the dense network at the end.
    """

    model: str
    samples: int
    trial: int
    rule: str
    pruned: dict[int, float]
    dense: float

    @property
    def late(self) -> list[int]:
        """Checkpoints from half of the training on."""
        return [iteration for iteration in self.pruned if 2 * iteration >= max(self.pruned)]

    @property
    def late_gain(self) -> float:
        """Points from half of the training to its end."""
        return self.pruned[max(self.pruned)] - self.pruned[self.late[0]]

    @property
    def needed(self) -> int:
        """The first checkpoint within :data:`MARGIN` of the best."""
        best = max(self.pruned.values())
        return next(i for i, found in self.pruned.items() if found >= best - MARGIN)


def series_of(
    trained: Iterable[Row], pruned: Iterable[Row], when: str = "iteration"
) -> list[Series]:
    """The rows of both kinds of cells, joined; ``when`` is the key that tells checkpoints apart."""
    cells = list(pruned)
    return [
        Series(
            row["model"],
            row["samples"],
            row["trial"],
            rule,
            {c[when]: 100 * c["accuracy"] for c in sorted_cells(cells, row, rule)},
            100 * row["checkpoints"][-1]["accuracy"],
        )
        for row in trained
        for rule in dict.fromkeys(cell["rule"] for cell in cells)
    ]


def sorted_cells(cells: Sequence[Row], training: Row, rule: str) -> list[Row]:
    """The prunings of one training by one rule, in order of the checkpoints."""
    keys = ("model", "samples", "trial")
    own = [c for c in cells if c["rule"] == rule and all(c[k] == training[k] for k in keys)]
    return sorted(own, key=lambda cell: int(cell["iteration"]))


def findings(trained: Sequence[Row], pruned: Sequence[Row]) -> Findings:
    """Tables and claims of all cells, whatever their number."""
    series = series_of(trained, pruned)
    found = Findings([*pruned])
    found.tables["test accuracy in % after pruning and fine-tuning"] = accuracy_table(series)
    found.tables["beside the published table"] = published_table(series)
    for rule in RULES:
        judge(found, rule, [one for one in series if one.rule == rule])
    judge(found, "published", published_series())
    found.notes += [*comparisons(pruned), *DIFFERENCES]
    return found


def comparisons(pruned: Sequence[Row]) -> list[str]:
    """The other rules against the paper's, and what pruning by each costs, a sentence each."""
    paper, *others = RULES
    costs = "; ".join(compared(pruned, rule, CONTROL) for rule in reversed(RULES))
    return [
        *(f"At the same multiply-adds {compared(pruned, rule, paper)}." for rule in others),
        f"What pruning costs: {costs}.",
    ]


def accuracy_table(series: Sequence[Series]) -> list[Row]:
    """The form of the paper's table, a row for each network, dataset and rule; means of trials."""
    rows = []
    for model, samples, rule in dict.fromkeys((s.model, s.samples, s.rule) for s in series):
        own = [s for s in series if (s.model, s.samples, s.rule) == (model, samples, rule)]
        at = {f"{i:,}": spread((s.pruned[i] for s in own), ".2f") for i in own[0].pruned}
        dense = spread((s.dense for s in own), ".2f")
        rows.append({"network": model, "images": samples, "rule": rule, **at, "dense": dense})
    return rows


def published_table(series: Sequence[Series]) -> list[Row]:
    """Every published cell, beside the measured ones of the same place in the grid.

    The place: the network of the same family, or the only one; the rank of the dataset among the
    sizes; the share of the pre-training.
    """
    rows = []
    models = list(dict.fromkeys(s.model for s in series))
    published_sizes = sorted({images for _, images in TABLE_1})
    for (name, images), (accuracies, dense) in TABLE_1.items():
        model = same_family(name, models)
        sizes = sorted({s.samples for s in series if s.model == model})
        samples = same_place(sizes, published_sizes.index(images), len(published_sizes))
        own = [s for s in series if (s.model, s.samples) == (model, samples)]
        for place, accuracy in enumerate(accuracies):
            step = same_place(list(own[0].pruned), place, len(accuracies))
            rows.append(
                {
                    "published network": name,
                    "images": images,
                    "iteration": TABLE_1_CHECKPOINTS[place],
                    "published": accuracy,
                    "published dense": dense,
                    "measured network": model,
                    "its images": samples,
                    "its iteration": step,
                    **measured(own, step),
                }
            )
    return rows


def measured(series: Sequence[Series], when: int) -> Row:
    """Means of trials of one training: pruned at a checkpoint by each rule, and dense."""
    ends = {one.trial: one.dense for one in series}  # the same for all rules
    by_rule = {r: spread((s.pruned[when] for s in series if s.rule == r), ".2f") for r in RULES}
    return {**by_rule, "dense": spread(ends.values(), ".2f")}


def same_family(name: str, models: Sequence[str]) -> str:
    """The first of ``models`` of the family of a published network, or the first of all."""
    return next((model for model in models if model[:6] == name.lower()[:6]), models[0])


def same_place(values: Sequence[int], place: int, of: int) -> int:
    """The value as far in ``values`` as number ``place`` (from 0) is in ``of`` of them."""
    return values[math.ceil((place + 1) * len(values) / of) - 1]


def published_series() -> list[Series]:
    """The paper's own table, so that its claims are judged by the same measures."""
    return [
        Series(name, images, 0, "published", dict(zip(TABLE_1_CHECKPOINTS, found, strict=True)), d)
        for (name, images), (found, d) in TABLE_1.items()
    ]


def judge(found: Findings, rule: str, series: Sequence[Series]) -> None:
    """Add the three claims that the table makes, for one rule."""
    late = [(s, i, s.pruned[i] - s.dense) for s in series for i in s.late]
    winners = sum(gap >= 0 for _, _, gap in late)
    worst, where, least = min(late, key=lambda one: one[2])
    found.claim(
        f"from half of the pre-training on the pruned network is as good as the dense one ({rule})",
        verdict(winners, len(late)),
        f"{winners} of {len(late)} cells; mean {spread((gap for _, _, gap in late), '+.1f')} "
        f"points, least {least:+.1f} ({worst.samples:,} images, iteration {where:,})",
    )
    flat = sum(s.late_gain <= MARGIN for s in series)
    found.claim(
        f"its accuracy no longer grows after half of the pre-training ({rule})",
        verdict(flat, len(series)),
        f"gain from half to the end: {by_samples(series, lambda s: s.late_gain)} points; at most "
        f"{MARGIN:g} in {flat} of {len(series)} series",
    )
    sizes = sorted({s.samples for s in series})
    needed = [statistics.mean(s.needed for s in series if s.samples == size) for size in sizes]
    grows = needed[-1] > needed[0]
    found.claim(
        f"larger datasets need more pre-training ({rule})",
        verdict(grows + (needed == sorted(needed) and grows), 2) if sizes[1:] else "undecided",
        f"first checkpoint within {MARGIN:g} points of the best: "
        + ", ".join(f"{size:,} images {n:,.0f}" for size, n in zip(sizes, needed, strict=True)),
    )


def verdict(true: int, of: int) -> str:
    """In words, from how many of so many cases agree."""
    return "holds" if true == of else "holds in part" if true else "contradicted"


def by_samples(series: Sequence[Series], value: Callable[[Series], float]) -> str:
    """``2,000 images +0.3 ± 0.1, ...``: mean and deviation over trials and networks."""
    sizes = sorted({s.samples for s in series})
    of = {size: [value(s) for s in series if s.samples == size] for size in sizes}
    return ", ".join(f"{size:,} images {spread(found, '+.1f')}" for size, found in of.items())


def compared(pruned: Sequence[Row], rule: str, other: str) -> str:
    """How much better a rule is than another one, before and after fine-tuning."""
    keys = ("model", "samples", "trial", "iteration", "macs")
    shared = keys[: -1 if other == CONTROL else None]  # which has the same budget as no other

    def place(row: Row) -> tuple[object, ...]:
        return tuple(row.get(key) for key in shared)

    known = {place(row): row for row in pruned if row["rule"] == other}
    pairs = [(row, known[place(row)]) for row in pruned if row["rule"] == rule]
    before, after = (
        spread((100 * (one[key] - two[key]) for one, two in pairs), "+.1f")
        for key in ("pruned_accuracy", "accuracy")
    )
    return (
        f"{rule} against {other}, {before} points before fine-tuning, {after} after it (mean and "
        f"standard deviation over {len(pairs)} networks)"
    )
