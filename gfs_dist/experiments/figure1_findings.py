"""What Figure 1's grid shows: red lines, how they grow with the data, and the paper's claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gfs_dist.experiments.fits import growth_fits, slope_interval, spread
from gfs_dist.experiments.grid import Findings, Row

PAPER_RULE = "uniform"
BEST_MARGIN = 0.005
DEFINITIONS = {
    "paper": "passes the best pruned network of the full dataset, as the paper words it",
    "level": "passes a fixed training accuracy",
    "own best": f"passes its own best less {100 * BEST_MARGIN:g} points",
}
"""Of the red line: the iteration, interpolated between checkpoints, at which a series ..."""

FEW_SIZES = 5
"""Fewer sizes of the dataset do not tell a law of two parameters from another."""

RISING = 0.1
"""Points gained at the last checkpoint from which on a series still rises."""

GOOD = 0.01
"""Shares of accuracy below the best one at which a pruned network still counts as good."""


class Series(NamedTuple):
    """Pruned accuracy on the training data at each checkpoint, of one network and one rule."""

    iterations: tuple[int, ...]
    values: tuple[float, ...]

    def crossing(self, level: float) -> float | None:
        """The first iteration at which ``level`` is reached, on straight lines between points."""
        before: tuple[int, float] | None = None
        for iteration, value in zip(*self, strict=True):
            if value >= level:
                if before is None:
                    return float(iteration)
                share = (level - before[1]) / (value - before[1])
                return before[0] + share * (iteration - before[0])
            before = iteration, value
        return None


Key = tuple[str, int, int, int]
"""Rule, width, samples, trial."""


def findings(trained: Sequence[Row], pruned: Sequence[Row], level: float) -> Findings:
    """All tables and claims of a grid.

    Args:
        trained, pruned: rows of its two kinds of cells.
        level: training accuracy of the red line at a fixed level.
    """
    dense = {
        (t["width"], t["samples"], t["trial"], point["iteration"]): point
        for t in trained
        for point in t["checkpoints"]
    }
    rows = []
    for row in pruned:
        point = dense[row["width"], row["samples"], row["trial"], row["iteration"]]
        rows.append({**row, **{f"dense_{key}": point[key] for key in MEASURED}})
    series = all_series(rows)
    needed = list(red_lines(series, level))
    found = Findings(rows)
    found.tables = {
        "pruned accuracy on the training data, percent": _accuracy_table(rows),
        "iterations needed": _needed_table(needed),
        "growth of the iterations needed": _growth_table(needed),
        "selection rules": _rules_table(series, rows),
    }
    found.data["red_lines"] = needed
    _judge(found, series, needed, level)
    return found


MEASURED = ("loss", "accuracy_train", "accuracy")


def all_series(rows: Sequence[Row]) -> dict[Key, Series]:
    """The series of a grid by rule, width, samples and trial."""
    points: dict[Key, list[tuple[int, float]]] = {}
    for row in rows:
        key = row["rule"], row["width"], row["samples"], row["trial"]
        points.setdefault(key, []).append((row["iteration"], row["accuracy_train"]))
    return {key: Series(*zip(*sorted(found), strict=True)) for key, found in points.items()}


def red_lines(series: Mapping[Key, Series], level: float) -> Iterator[Row]:
    """Iterations needed by every series under each definition; None where it is not reached."""
    full = max(samples for _, _, samples, _ in series)
    for (rule, width, samples, trial), one in series.items():
        levels = {
            "paper": max(series[rule, width, full, trial].values),
            "level": level,
            "own best": max(one.values) - BEST_MARGIN,
        }
        for definition, at in levels.items():
            yield {
                "rule": rule, "width": width, "samples": samples, "trial": trial,
                "definition": definition, "level": at, "iterations": one.crossing(at),
            }  # fmt: skip


def _accuracy_table(rows: Sequence[Row]) -> list[Row]:
    cells: dict[tuple[Any, ...], dict[int, list[float]]] = {}
    for row in rows:
        for who in (row["rule"], "dense") if row["rule"] == PAPER_RULE else (row["rule"],):
            key = "dense_accuracy_train" if who == "dense" else "accuracy_train"
            line = cells.setdefault((who, row["width"], row["samples"]), {})
            line.setdefault(row["iteration"], []).append(100 * row[key])
    return [
        {"rule": rule, "N": width, "m": samples}
        | {f"{iteration:,}": spread(values, ".2f") for iteration, values in sorted(line.items())}
        for (rule, width, samples), line in sorted(cells.items())
    ]


def _by_line(needed: Sequence[Row]) -> dict[tuple[str, int, str], dict[int, list[float | None]]]:
    """Iterations of all trials by rule, width and definition, then by samples."""
    lines: dict[tuple[str, int, str], dict[int, list[float | None]]] = {}
    for row in needed:
        line = lines.setdefault((row["rule"], row["width"], row["definition"]), {})
        line.setdefault(row["samples"], []).append(row["iterations"])
    return lines


def _needed_table(needed: Sequence[Row]) -> list[Row]:
    def cell(values: Sequence[float | None]) -> str:
        reached = [value for value in values if value is not None]
        if not reached:
            return "never"
        missed = "" if len(reached) == len(values) else f" ({len(reached)} of {len(values)})"
        return spread(reached, ",.0f") + missed

    return [
        {"rule": rule, "N": width, "red line": definition}
        | {f"m = {samples:,}": cell(values) for samples, values in sorted(line.items())}
        for (rule, width, definition), line in _by_line(needed).items()
    ]


def line_points(line: Mapping[int, Sequence[float | None]]) -> tuple[np.ndarray, np.ndarray]:
    """Samples and mean iterations of a red line, where all trials reach it after iteration 0."""
    points = [
        (samples, float(np.mean(reached)))
        for samples, values in sorted(line.items())
        if len(reached := [v for v in values if v]) == len(values)
    ]
    x, y = zip(*points, strict=True) if points else ((), ())
    return np.array(x, dtype=float), np.array(y, dtype=float)


def _growth_table(needed: Sequence[Row]) -> list[Row]:
    table = []
    for (rule, width, definition), line in _by_line(needed).items():
        x, y = line_points(line)
        if len(x) < 3:
            continue
        _, low, high = slope_interval(x, y)
        laws = growth_fits(x, y)
        best = min(laws, key=lambda fit: (fit.aicc, fit.rms))
        table += [
            {
                "rule": rule,
                "N": width,
                "red line": definition,
                "law": fit.law,
                **{name: fit.values.get(name) for name in ("a", "b", "p", "h")},
                "relative error (RMS)": fit.rms,
                "95 % of p": f"{low:.2f} to {high:.2f}" if "p" in fit.values else None,
                "best (AICc)": "yes" if fit is best else "",
            }
            for fit in laws
        ]
    return table


def _rules_table(series: Mapping[Key, Series], rows: Sequence[Row]) -> list[Row]:
    """Does better selection need less pre-training? Each rule against the paper's best."""
    kept: dict[Key, list[int]] = {}
    for row in rows:
        key = row["rule"], row["width"], row["samples"], row["trial"]
        kept.setdefault(key, []).append(row["kept"])
    cells: dict[tuple[int, int, str], list[tuple[Any, ...]]] = {}
    for (rule, width, samples, trial), one in series.items():
        goal = max(series[PAPER_RULE, width, samples, trial].values) - BEST_MARGIN
        own = one.crossing(max(one.values) - BEST_MARGIN)
        neurons = float(np.mean(kept[rule, width, samples, trial]))
        cells.setdefault((width, samples, rule), []).append(
            (100 * max(one.values), own, one.crossing(goal), neurons)
        )

    def mean(values: Sequence[float | None], form: str) -> str:
        reached = [value for value in values if value is not None]
        return spread(reached, form) if len(reached) == len(values) else "never"

    table: list[Row] = []
    for (width, samples, rule), trials in sorted(cells.items()):
        bests, own_at, goal_at, sizes = ([trial[i] for trial in trials] for i in range(4))
        table.append(
            {
                "N": width, "m": samples, "rule": rule,
                "best accuracy, percent": spread(bests, ".2f"),
                "iterations to its own best less 0.5": mean(own_at, ",.0f"),
                f"iterations to {PAPER_RULE}'s best less 0.5": mean(goal_at, ",.0f"),
                "neurons": f"{np.mean(sizes):.0f}",
            }
        )  # fmt: skip
    return table


def _compare_rules(series: Mapping[Key, Series], rows: Sequence[Row]) -> str:
    """How much pre-training and how many neurons other rules take, beside the paper's."""
    keys = ("rule", "width", "samples", "trial", "iteration")
    kept = {tuple(row[key] for key in keys): row["kept"] for row in rows}
    sentences = []
    for rule in dict.fromkeys(key[0] for key in series if key[0] != PAPER_RULE):
        iterations, neurons = [], []
        for (of, width, samples, trial), one in series.items():
            place = width, samples, trial
            paper = series[PAPER_RULE, *place]
            goal = max(paper.values) - BEST_MARGIN
            own, theirs = one.crossing(goal), paper.crossing(goal)
            if of == rule and own is not None and theirs:
                iterations.append(own / theirs)
                neurons += [
                    kept[rule, *place, i] / kept[PAPER_RULE, *place, i] for i in one.iterations if i
                ]
        if iterations:
            sentences.append(
                f"{rule} takes {spread(iterations, '.2f')} times the iterations and "
                f"{spread(neurons, '.2f')} times the neurons"
            )
    return (
        f"Does better selection need less pre-training? To {PAPER_RULE}'s best less "
        f"{100 * BEST_MARGIN:g} points {'; '.join(sentences)}."
    )


def _judge(
    found: Findings, series: Mapping[Key, Series], needed: Sequence[Row], level: float
) -> None:
    own = {key[1:]: one for key, one in series.items() if key[0] == PAPER_RULE}
    starts = [(one.values[0], max(one.values)) for one in own.values() if one.iterations[0] == 0]
    good = sum(first >= best - GOOD for first, best in starts)
    found.claim(
        "a good subnetwork is never found at initialisation",
        "holds" if good == 0 else "contradicted" if good == len(starts) else "holds in part",
        f"pruned at iteration 0: {100 * min(f for f, _ in starts):.1f} to "
        f"{100 * max(f for f, _ in starts):.1f} %, within a point of their best in {good} of "
        f"{len(starts)} series",
    )
    _judge_growth(found, [row for row in needed if row["rule"] == PAPER_RULE])
    _judge_width(found, own)
    found.notes += [
        _compare_rules(series, found.rows),
        *_still_rising(own),
        "The paper gives neither optimiser, rate, batch, weights nor pruning loss of this figure; "
        "here: mini-batches of 32 without momentum, the step that the curvature allows, Gaussian "
        "weights, the loss of training (binary cross-entropy) for pruning too. Its accuracies are "
        "in the image alone, so that no cell can be set beside a published one: its claims are.",
        f"Accuracy is that on the sub-dataset that was trained on; the fixed level is "
        f"{100 * level:g} %.",
    ]


def _still_rising(own: Mapping[tuple[int, int, int], Series]) -> list[str]:
    """The best of a series that still rises is that of its horizon: a later one needs more."""
    gains: dict[int, list[float]] = {}
    for (_, samples, _), one in own.items():
        gains.setdefault(samples, []).append(100 * (one.values[-1] - one.values[-2]))
    rising = {m: values for m, values in gains.items() if np.mean(values) > RISING}
    if not rising:
        return []
    said = ", ".join(f"m={m:,} by {spread(values, '.2f')}" for m, values in sorted(rising.items()))
    return [
        "Some series still rise at the last checkpoint, so that their own best, and the iterations "
        f"needed for it, are too small: {said} points since the checkpoint before."
    ]


def _judge_growth(found: Findings, needed: Sequence[Row]) -> None:
    """More data needs more iterations, and less than in proportion."""
    lines = _by_line(needed)
    for definition, meaning in DEFINITIONS.items():
        slopes = {
            width: slope_interval(*points)
            for (_, width, of), line in lines.items()
            if of == definition and len((points := line_points(line))[0]) >= 3
        }
        if slopes:
            rise, fall = ([low > 0 for _, low, _ in slopes.values()],
                          [high < 0 for _, _, high in slopes.values()])  # fmt: skip
            found.claim(
                f"the pre-training needed grows with the dataset (red line: {meaning})",
                "holds" if all(rise) else "holds in part" if any(rise) else
                "contradicted" if all(fall) else "undecided",
                "; ".join(f"N={width:,}: m^{slope:.2f} ({low:.2f} to {high:.2f})"
                          for width, (slope, low, high) in slopes.items()),
            )  # fmt: skip
    best = [
        row
        for row in found.tables["growth of the iterations needed"]
        if row["rule"] == PAPER_RULE and row["best (AICc)"]
    ]
    if best:
        found.claim(
            "it plateaus for large datasets (is seemingly logarithmic)",
            _plateau_verdict(best, len({row["samples"] for row in needed})),
            "the law that fits best, and the power with its 95 %: "
            + "; ".join(f"N={r['N']:,}, {r['red line']}: {r['law']}{_power(r)}" for r in best),
        )


def _power(row: Row) -> str:
    return "" if row["p"] is None else f", p = {row['p']:.2f} ({row['95 % of p']})"


def _plateau_verdict(best: Sequence[Row], sizes: int) -> str:
    """A power below 1 flattens, but has no plateau."""
    if sizes < FEW_SIZES:
        return "undecided"
    bends = [row["law"] != "a x^p" for row in best]
    flattens = [bend or row["p"] < 1 for bend, row in zip(bends, best, strict=True)]
    return "holds" if all(bends) else "holds in part" if all(flattens) else "contradicted"


def _judge_width(found: Findings, own: Mapping[tuple[int, int, int], Series]) -> None:
    """Narrower dense networks give better subnetworks: final accuracy, width against width."""
    widths = sorted({width for width, _, _ in own})
    differences: dict[int, list[float]] = {}
    for (width, samples, trial), one in own.items():
        if width == widths[0] and len(widths) > 1:
            wide = own[widths[-1], samples, trial]
            gains = [a - b for a, b in zip(one.values[1:], wide.values[1:], strict=True)]
            differences.setdefault(samples, []).append(100 * float(np.mean(gains)))
    if not differences:
        return
    better = sum(float(np.mean(values)) > 0 for values in differences.values())
    said = ", ".join(f"m={m:,}: {spread(v, '+.2f')}" for m, v in sorted(differences.items()))
    every = len(differences)
    found.claim(
        "narrower dense networks give better subnetworks",
        "holds" if better == every else "holds in part" if better else "contradicted",
        f"points that N={widths[0]:,} gains over N={widths[-1]:,}, mean over checkpoints: {said}",
    )
