"""What Table 2 shows: accuracies beside the published ones, and which of its claims hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gfs_dist.experiments.deep_rules import DIFFERENCES, RULES
from gfs_dist.experiments.fits import spread
from gfs_dist.experiments.grid import Findings, Row
from gfs_dist.experiments.published import TABLE_2, TABLE_2_EPOCHS
from gfs_dist.experiments.table1_findings import (
    MARGIN,
    Series,
    accuracy_table,
    comparisons,
    measured,
    same_family,
    same_place,
    series_of,
    verdict,
)

NEAR = 1.0
"""Points of accuracy below a later subnetwork that the paper calls within 1 %."""

ByBudget = Mapping[int, Sequence[Series]]
"""Series by percent of the multiply-adds, the largest first; epochs for iterations."""


def findings(trained: Sequence[Row], pruned: Sequence[Row], differences: Sequence[Row]) -> Findings:
    """Tables and claims of all cells, whatever their number.

    Args:
        pruned: fine-tuned networks, with ``macs`` in percent and ``epoch``.
        differences: settings that are not the paper's.
    """
    budgets = sorted({row["macs"] for row in pruned}, reverse=True)
    series = {
        macs: series_of(trained, [row for row in pruned if row["macs"] == macs], "epoch")
        for macs in budgets
    }
    found = Findings([*pruned])
    found.tables["top-1 in % after pruning at an epoch and fine-tuning"] = [
        {"multiply-adds": f"{macs} %", **row}
        for macs, own in series.items()
        for row in accuracy_table(own)
    ]
    found.tables["beside the published table"] = published_table(series, pruned)
    found.tables["settings that are not the paper's"] = [*differences]
    for rule in RULES:
        cut = {
            macs: [one for one in own if one.rule == rule]
            for macs, own in series.items()
            if macs < 100
        }
        judge(found, rule, cut)
    judge(found, "published", published_series())
    other = ", ".join(f"{row['setting']} {row['here']}" for row in differences)
    found.notes += [
        f"Another scale than the paper's: {other}.",
        *comparisons(pruned),
        *DIFFERENCES,
    ]
    return found


def published_table(series: ByBudget, pruned: Sequence[Row]) -> list[Row]:
    """Every published cell, beside the measured ones of the same place in the grid.

    The place: the network of the same family, or the only one; the same budget; the share of the
    pre-training.
    """
    rows = []
    for (name, ratio), (accuracies, dense) in TABLE_2.items():
        macs = int(ratio.partition("%")[0])
        model = same_family(name, [s.model for s in series[macs]])
        own = [s for s in series[macs] if s.model == model]
        left = {
            r: spread(
                (
                    100 * row["params_kept"]
                    for row in pruned
                    if (row["rule"], row["macs"], row["model"]) == (r, macs, model)
                ),
                ".2f",
            )
            for r in RULES
        }
        for place, accuracy in enumerate(accuracies):
            epoch = same_place(list(own[0].pruned), place, len(accuracies))
            rows.append(
                {
                    "published network": name,
                    "multiply-adds (parameters) left": ratio,
                    "epoch": TABLE_2_EPOCHS[place],
                    "published": accuracy,
                    "published dense": dense,
                    "measured network": model,
                    "its epoch": epoch,
                    **measured(own, epoch),
                    **{f"parameters left in %, {rule}": kept for rule, kept in left.items()},
                }
            )
    return rows


def published_series() -> ByBudget:
    """The paper's own table, so that its claims are judged by the same measures."""
    found: dict[int, list[Series]] = {}
    for (name, ratio), (accuracies, dense) in TABLE_2.items():
        by_epoch = dict(zip(TABLE_2_EPOCHS, accuracies, strict=True))
        one = Series(name, 0, 0, "published", by_epoch, dense)
        found.setdefault(int(ratio.partition("%")[0]), []).append(one)
    return found


def judge(found: Findings, rule: str, series: ByBudget) -> None:
    """Add the claims that the table makes, for one rule."""
    every = [(macs, one) for macs, own in series.items() for one in own]
    first, last = min(every[0][1].pruned), max(every[0][1].pruned)
    late, mildest = every[0][1].late[0], max(series)

    flat = sum(one.late_gain <= MARGIN for _, one in every)
    most, macs, model = max((one.late_gain, macs, one.model) for macs, one in every)
    found.claim(
        f"in all cases its accuracy no longer grows after two thirds of the pre-training ({rule})",
        verdict(flat, len(every)),
        f"gain from epoch {late} to {last}: {_by_budget(every, [s.late_gain for _, s in every])} "
        f"points, most {most:+.2f} ({model}, {macs} %); at most {MARGIN:g} in {flat} of "
        f"{len(every)} series",
    )
    near = [s for s in series[mildest] if s.model.lower().startswith("resnet")]
    gaps = [s.pruned[first] - s.pruned[last] for s in near]
    within = sum(gap >= -NEAR for gap in gaps)
    found.claim(
        f"after a third of the pre-training ResNet at {mildest} % is within a point of what all of "
        f"it gives ({rule})",
        verdict(within, len(near)) if near else "undecided",
        f"at epoch {first} less at epoch {last}: {spread(gaps, '+.2f')} points; less the dense "
        f"network: {spread((s.pruned[first] - s.dense for s in near), '+.2f')}"
        if near
        else "no ResNet in the grid",
    )
    gains = [one.pruned[late] - one.pruned[first] for _, one in every]
    found.claim(
        f"up to two thirds of the pre-training more of it gives better subnetworks ({rule})",
        verdict(sum(gain > 0 for gain in gains), len(gains)),
        f"gain from epoch {first} to {late}: {_by_budget(every, gains)} points",
    )


def _by_budget(series: Sequence[tuple[int, Series]], values: Sequence[float]) -> str:
    """``60 %: +0.31 ± 0.10, ...``: mean and deviation over networks and trials."""
    pairs = [(macs, value) for (macs, _), value in zip(series, values, strict=True)]
    return ", ".join(
        f"{budget} %: {spread((value for macs, value in pairs if macs == budget), '+.2f')}"
        for budget in dict.fromkeys(macs for macs, _ in pairs)
    )
