"""The plots of ``gfs reproduce experiment=theory``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gfs_dist.report import style
from gfs_dist.report.facts import Run

Row = Mapping[str, Any]
MOST_CHECKPOINTS = 4


def _rows(run: Run, name: str) -> list[Row]:
    """Rows of a run of this experiment that only plots show; none of another run."""
    of_theory = run.report.get("experiment") == "theory"
    return [*run.report.get("data", {}).get(name, [])] if of_theory else []


def _values(rows: Sequence[Row], key: str) -> list[Any]:
    return sorted({row[key] for row in rows})


def lemma1_bounds(run: Run) -> Figure | None:
    """Loss of the paper's rule against picks (points) after more and more pre-training, and Lemma
    1's bound with the least loss of the hull (lines): the most samples and neurons, first trial.
    """
    rows = [row for row in _rows(run, "paths") if row["trial"] == 0]
    if not rows:
        return None
    names = _values(rows, "data")
    figure = style.canvas(1.6 + 3.6 * len(names), 4.0)
    for axes, name in zip(style.panels(figure, len(names), len(names)), names, strict=True):
        own = [row for row in rows if row["data"] == name]
        m, n = _values(own, "samples")[-1], _values(own, "width")[-1]
        own = [row for row in own if (row["samples"], row["width"]) == (m, n)]
        chosen = style.spread_out(_values(own, "iteration"), MOST_CHECKPOINTS)
        for iteration, colour in zip(chosen, style.ordered_colours(len(chosen)), strict=True):
            path = [row for row in own if row["iteration"] == iteration]
            picks = [row["picks"] for row in path]
            loss = [row["uniform"] for row in path]
            axes.plot(picks, loss, "o", color=colour, ms=4, label=f"{iteration:,} iterations")
            axes.plot(picks, [row["bound with the hull"] for row in path], "-", color=colour)
        style.log_where_sensible(axes, "x", _values(own, "picks"))
        style.log_where_sensible(axes, "y", [max(row["uniform"], 1e-9) for row in own])
        axes.set(xlabel="picks")
        axes.set_title(f"{name}, m = {m}, N = {n:,}", loc="left")
    figure.axes[0].set_ylabel("loss")
    figure.axes[0].legend(fontsize=8)
    return figure


def picks_that_help(run: Run) -> Figure | None:
    """Slope of log loss over log picks between 200 and 1,000 picks, against pre-training (mean over
    trials, most neurons); below -1 more picks help. Dotted: Theorem 3's iterations in the middle,
    with constants from the tangent kernel.
    """
    rows = _rows(run, "slopes")
    if not rows:
        return None
    names = _values(rows, "data")
    figure = style.canvas(1.6 + 3.6 * len(names), 4.0)
    for axes, name in zip(style.panels(figure, len(names), len(names)), names, strict=True):
        own = [row for row in rows if row["data"] == name]
        width, sizes = _values(own, "width")[-1], _values(own, "samples")
        for m, colour in zip(sizes, style.ordered_colours(len(sizes)), strict=True):
            line = [row for row in own if (row["samples"], row["width"]) == (m, width)]
            points = []
            for iteration in _values(line, "iteration"):
                slopes = [row["slope"] for row in line if row["iteration"] == iteration]
                if all(slope is not None for slope in slopes):
                    points.append((iteration, np.mean(slopes)))
            axes.plot(*zip(*points, strict=True), "o-", color=colour, ms=4, label=f"m = {m}")
            predicted = float(np.mean([row["predicted"] for row in line]))
            axes.axvline(predicted, color=colour, linestyle=":", linewidth=1.4)
        axes.axhline(-1.0, color=style.GREY, linewidth=1.0)
        axes.set_xscale("symlog", linthresh=1)
        style.plain_numbers(axes.xaxis)
        axes.set(xlabel="iterations of pre-training", xlim=(-0.3, None))
        axes.set_title(f"{name}, N = {width:,}", loc="left")
    figure.axes[0].set_ylabel("slope")
    figure.axes[0].legend(fontsize=8)
    return figure


def kappa_against_samples(run: Run) -> Figure | None:
    """kappa^2 of the hidden outputs at initialisation against the samples (points: mean over
    trials), which Theorem 3's iterations follow; a Gaussian matrix has the slope it is assumed to
    have.
    """
    rows = run.table("kappa against the samples")
    if not rows:
        return None
    figure, axes = style.axes(6.4, 4.2)
    colours = (style.BLUE, style.ORANGE, style.VERMILION)
    for name, colour in zip(_values(rows, "data"), colours, strict=False):
        own = [row for row in rows if row["data"] == name]
        axes.plot(
            [r["m"] for r in own], [r["kappa^2"] for r in own], "o-", color=colour, label=name
        )
    style.log_where_sensible(axes, "x", [row["m"] for row in rows])
    style.log_where_sensible(axes, "y", [row["kappa^2"] for row in rows])
    axes.set(xlabel="samples m", ylabel="kappa^2")
    axes.set_title(f"N = {rows[0]['N']:,}", loc="left")
    axes.legend()
    return figure


PLOTS = (lemma1_bounds, picks_that_help, kappa_against_samples)
"""In the order of the page."""
