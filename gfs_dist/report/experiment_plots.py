"""The plots of ``gfs reproduce``: drawn from the rows and tables of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gfs_dist.report import style, theory_plots
from gfs_dist.report.facts import Run

Row = Mapping[str, Any]
RED_LINES = {"own best": "-", "paper": "--", "level": ":"}
LAWS = ("c sqrt(N)", "c (sqrt(N) - sqrt(m))", "a sqrt(N) - b")
MOST_SIZES = 4


def _rows(run: Run, experiment: str) -> list[Row]:
    """The results of a run of that experiment; none of another."""
    rows: list[Row] = [*run.report["results"]]
    return rows if run.report.get("experiment") == experiment else []


def _values(rows: Sequence[Row], *keys: str) -> list[Any]:
    """The different values of one key, or tuples of several, in order."""
    return sorted({tuple(r[k] for k in keys) if len(keys) > 1 else r[keys[0]] for r in rows})


def pretraining_heat_maps(run: Run) -> Figure | None:
    """Training accuracy after pruning, mean over trials, by dataset size and pre-training; a column
    for each width, a row for each selection rule. Red: the iterations needed, where a series passes
    its own best less half a point (solid), the best of the full dataset (dashed: the paper's line),
    or a fixed level (dotted).
    """
    rows = _rows(run, "figure1")
    if not rows:
        return None
    rules, widths = _values(rows, "rule")[::-1], _values(rows, "width")
    low = np.percentile([100 * r["accuracy_train"] for r in rows if r["iteration"]], 2)
    figure = style.canvas(1.4 + 3.9 * len(widths), 0.9 + 2.5 * len(rules))
    grid = figure.subplots(len(rules), len(widths), sharex=True, sharey=True, squeeze=False)
    lines: Sequence[Row] = run.report.get("data", {}).get("red_lines", [])
    for axes, (rule, width) in zip(grid.flat, [(r, w) for r in rules for w in widths], strict=True):
        own = [row for row in rows if (row["rule"], row["width"]) == (rule, width)]
        image = _heat_map(axes, own, float(low))
        for definition, dashes in RED_LINES.items():
            line = [
                row
                for row in lines
                if (row["rule"], row["width"], row["definition"]) == (rule, width, definition)
            ]
            _red_line(axes, line, _values(own, "iteration"), _values(own, "samples"), dashes)
        axes.set_title(f"{rule}, N = {width:,}", loc="left")
    figure.colorbar(image, ax=grid, label="training accuracy after pruning (%)", shrink=0.8)
    figure.supxlabel("iterations of pre-training", fontsize=10)
    figure.supylabel("samples", fontsize=10)
    return figure


def _heat_map(axes: Axes, rows: Sequence[Row], low: float) -> Any:
    iterations, sizes = _values(rows, "iteration"), _values(rows, "samples")
    shown = np.full((len(sizes), len(iterations)), np.nan)
    for y, size in enumerate(sizes):
        for x, iteration in enumerate(iterations):
            cell = [
                row["accuracy_train"]
                for row in rows
                if (row["samples"], row["iteration"]) == (size, iteration)
            ]
            shown[y, x] = 100 * np.mean(cell)
    image = axes.imshow(shown, aspect="auto", origin="lower", cmap="viridis", vmin=low, vmax=100)
    for (y, x), value in np.ndenumerate(shown):
        colour = "white" if value < (low + 100) / 2 else "black"
        axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(iterations)), [f"{i:,}" for i in iterations], rotation=45)
    axes.set_yticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.grid(visible=False)
    return image


def _red_line(
    axes: Axes, line: Sequence[Row], iterations: Sequence[int], sizes: Sequence[int], dashes: str
) -> None:
    """Between the columns of a heat map, whose iterations are not evenly spaced."""
    points = []
    for y, size in enumerate(sizes):
        reached = [row["iterations"] for row in line if row["samples"] == size]
        known = [value for value in reached if value is not None]
        if known and len(known) == len(reached):
            points.append((np.interp(np.mean(known), iterations, range(len(iterations))), y))
    if points:
        axes.plot(*zip(*points, strict=True), dashes, color="#E8242B", marker=".", linewidth=1.5)


def iterations_needed(run: Run) -> Figure | None:
    """Iterations of pre-training until a series passes its own best less half a point, against the
    size of the dataset; bars: one standard deviation over trials.
    """
    rows = [
        row
        for row in run.report.get("data", {}).get("red_lines", [])
        if row["definition"] == "own best" and row["iterations"] is not None
    ]
    if not rows:
        return None
    figure, axes = style.axes(6.4, 4.2)
    rules, widths = _values(rows, "rule")[::-1], _values(rows, "width")
    colours = style.ordered_colours(len(widths))
    for rule, marker in zip(rules, "os^Dv", strict=False):
        for width, colour in zip(widths, colours, strict=True):
            own = [row for row in rows if (row["rule"], row["width"]) == (rule, width)]
            _means(axes, own, "samples", "iterations", f"{rule}, N = {width:,}", colour, marker)
    style.log_where_sensible(axes, "x", [row["samples"] for row in rows])
    axes.set(xlabel="samples", ylabel="iterations needed")
    axes.legend(fontsize=8)
    return figure


def accuracy_by_rule(run: Run) -> Figure | None:
    """Training accuracy after pruning by each selection rule, and of the dense network (grey),
    against pre-training, for the widest network; bars: one standard deviation over trials.
    """
    rows = _rows(run, "figure1")
    if not rows:
        return None
    width = max(_values(rows, "width"))
    rows = [{**row, "percent": 100 * row["accuracy_train"]} for row in rows]
    own = [row for row in rows if row["width"] == width and row["iteration"]]
    sizes = style.spread_out(_values(own, "samples"), MOST_SIZES)
    figure = style.canvas(7.6, 5.2)
    panels = style.panels(figure, len(sizes), min(2, len(sizes)))
    colours = dict(zip(_values(own, "rule")[::-1], (style.BLUE, style.ORANGE, style.VERMILION,
                                                    style.SKY), strict=False))  # fmt: skip
    for axes, size in zip(panels, sizes, strict=True):
        here = [row for row in own if row["samples"] == size]
        dense = [{**row, "percent": 100 * row["dense_accuracy_train"]} for row in here]
        _means(axes, dense, "iteration", "percent", "dense", style.GREY, "")
        for rule, colour in colours.items():
            by_rule = [row for row in here if row["rule"] == rule]
            _means(axes, by_rule, "iteration", "percent", rule, colour, "o")
        axes.set_title(f"m = {size:,}, N = {width:,}", loc="left")
    panels[0].legend(fontsize=8)
    figure.supxlabel("iterations of pre-training", fontsize=10)
    figure.supylabel("training accuracy (%)", fontsize=10)
    return figure


def _means(
    axes: Axes, rows: Sequence[Row], x: str, y: str, label: str, colour: Any, marker: str,
    dashes: str = "-",
) -> None:  # fmt: skip
    places = _values(rows, x)
    cells = [[row[y] for row in rows if row[x] == place] for place in places]
    bars = [np.std(cell, ddof=1) if len(cell) > 1 else 0.0 for cell in cells]
    axes.errorbar(
        places, [np.mean(cell) for cell in cells], yerr=bars, label=label, color=colour,
        marker=marker, markersize=4, capsize=2, linewidth=1.4, linestyle=dashes,
    )  # fmt: skip


def smallest_singular_value(run: Run) -> Figure | None:
    """Smallest singular value of the hidden outputs at initialisation against the width (points:
    mean and standard deviation over draws), and the three laws fitted to it.
    """
    points, fits = run.table("smallest singular value"), run.table("three laws")
    if not points:
        return None
    shapes = _values(points, "m", "d")
    figure = style.canvas(7.6, 5.4)
    for axes, (m, d) in zip(style.panels(figure, len(shapes), 2), shapes, strict=True):
        own = [row for row in points if (row["m"], row["d"]) == (m, d)]
        widths = np.array([row["N"] for row in own], dtype=float)
        bars = [row["standard deviation"] for row in own]
        axes.errorbar(widths, [row["sigma_min"] for row in own], yerr=bars, fmt="ko", ms=4)
        dense = np.geomspace(widths[0], widths[-1], 100)
        for fit in (row for row in fits if (row["m"], row["d"]) == (m, d)):
            c, a, b = (fit.get(key) or 0.0 for key in ("c", "a", "b"))
            less = np.sqrt(m) if fit["law"] == LAWS[1] else 0.0
            curve = c * (np.sqrt(dense) - less) + a * np.sqrt(dense) - b
            dashes = ("--", "-.", "-")[LAWS.index(fit["law"])]
            axes.plot(dense, curve, dashes, linewidth=1.2, label=fit["law"])
        style.log_where_sensible(axes, "x", list(widths))
        axes.set_title(f"m = {m}, d = {d}", loc="left")
    figure.axes[0].legend(fontsize=8)
    figure.supxlabel("neurons N", fontsize=10)
    figure.supylabel("smallest singular value", fontsize=10)
    return figure


def condition_number(run: Run) -> Figure | None:
    """Condition number of Gaussian matrices m x N against m (points: mean and standard deviation
    over draws), and (sqrt N + sqrt m) / (sqrt N - sqrt m).
    """
    rows = run.table("condition number")
    if not rows:
        return None
    figure, axes = style.axes(6.4, 4.2)
    widths = _values(rows, "N")
    for width, colour in zip(widths, style.ordered_colours(len(widths)), strict=True):
        own = [row for row in rows if row["N"] == width]
        samples, bars = [row["m"] for row in own], [row["standard deviation"] for row in own]
        kappa = [row["kappa"] for row in own]
        axes.errorbar(
            samples, kappa, yerr=bars, fmt="o", color=colour, ms=4, label=f"N = {width:,}"
        )
        axes.plot(samples, [row["formula"] for row in own], "-", color=colour, linewidth=1.0)
    axes.set(yscale="log", xlabel="samples m", ylabel="condition number")
    style.plain_numbers(axes.yaxis)
    axes.legend()
    return figure


def accuracy_after_fine_tuning(run: Run) -> Figure | None:
    """Test accuracy of checkpoints pruned by each rule, as cut and repaired (dashed) and after
    fine-tuning (solid); of the dense network (grey), and of it fine-tuned, against pre-training;
    bars: one standard deviation over trials.
    """
    if rows := _rows(run, "table1"):
        return _after_fine_tuning(rows, "samples", "images", "iteration")
    if rows := _rows(run, "table2"):
        return _after_fine_tuning(rows, "macs", "% of the multiply-adds", "epoch")
    return None


def _after_fine_tuning(rows: Sequence[Row], column: str, unit: str, when: str) -> Figure:
    """A row of panels for each network; what is unpruned has, in all of them, its own budget."""
    keys = {"dense_accuracy": "dense", "pruned_accuracy": "pruned", "accuracy": "tuned"}
    rows = [{**row, **{new: 100 * row[key] for key, new in keys.items()}} for row in rows]
    cut = [row for row in rows if row["rule"] != "unpruned"]
    places = _values(cut, "model", column)
    rules = ("paper", "line_search", "least_squares", "unpruned")
    shades = (style.BLUE, style.VERMILION, style.ORANGE, style.SKY)
    colours = {r: c for r, c in zip(rules, shades, strict=True) if r in _values(rows, "rule")}
    figure = style.canvas(10.2, 0.9 + 3.1 * len(_values(rows, "model")))
    panels = style.panels(figure, len(places), len(_values(cut, column)))
    for axes, (model, value) in zip(panels, places, strict=True):
        here = [
            row
            for row in rows
            if row["model"] == model
            and (row[column] == value or (column == "macs" and row["rule"] == "unpruned"))
        ]
        _means(axes, here, when, "dense", "dense", style.GREY, "")
        for rule, colour in colours.items():
            own = [row for row in here if row["rule"] == rule]
            if rule != "unpruned":
                _means(axes, own, when, "pruned", f"{rule}, pruned", colour, "o", "--")
            _means(axes, own, when, "tuned", f"{rule}, fine-tuned", colour, "o")
        axes.set_title(f"{model}, {value:,} {unit}", loc="left")
    panels[0].legend(fontsize=8)
    figure.supxlabel(f"{when}s of pre-training", fontsize=10)
    figure.supylabel("test accuracy (%)", fontsize=10)
    return figure


PLOTS = (
    pretraining_heat_maps,
    iterations_needed,
    accuracy_by_rule,
    accuracy_after_fine_tuning,
    smallest_singular_value,
    condition_number,
    *theory_plots.PLOTS,
)
"""In the order of the page."""
