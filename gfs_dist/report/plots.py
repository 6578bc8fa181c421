"""The plots of a run: a function each, which returns no figure where its facts are missing.

A plot's file is called as its function; the function's docstring is the caption under it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from gfs_dist.records import Report
from gfs_dist.report import deep_plots, experiment_plots, style
from gfs_dist.report.advice import verdict
from gfs_dist.report.facts import Result, Run, time_split

MOST_PANELS = 9
DENSE_LINE: Any = {"linestyle": (0, (5, 3)), "linewidth": 1.1, "label": "dense network"}
TIMES = {
    "set-up": style.GREY,
    "joining": style.SKY,
    "compute": style.BLUE,
    "exchange": style.ORANGE,
    "wait": style.VERMILION,
}

OBJECTIVES = ("network_loss", "layer_output", "least_squares")
"""Those of deep networks; the plot of a benchmark is named after one."""

TOGETHER, ALONE = "whole", "critical path"
HATCH = "////"
BELOW: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
Row = Mapping[str, Any]


class Plot(NamedTuple):
    """A plot that was drawn, the name of its file, and what it shows."""

    file: str
    caption: str
    png: bytes

    @classmethod
    def of(cls, name: str, plot: Callable[..., object], figure: Figure) -> Plot:
        caption = " ".join((plot.__doc__ or "").split())
        return cls(f"{name}.png", caption, style.png(figure))

    @property
    def name(self) -> str:
        """Alternative text of the image; its caption follows."""
        return self.file.removesuffix(".png").replace("_", " ")

    @property
    def base64(self) -> str:
        """The image for a ``data:`` URL."""
        return base64.b64encode(self.png).decode("ascii")


def draw(run: Run) -> list[Plot]:
    """All plots that the facts allow, in the order of the page."""
    with mpl.rc_context(style.RC):  # the caller's own settings come back after it
        figures = [(plot.__name__, plot, plot(run)) for plot in PLOTS]
        drawn = [Plot.of(name, plot, figure) for name, plot, figure in figures if figure]
        for objective, figure in blocks_by_objective(run.report):
            drawn.append(Plot.of(f"blocks_{objective}", blocks, figure))
    return drawn


def loss_against_neurons(run: Run) -> Figure | None:
    """Loss of the pruned network against the number of distinct neurons it keeps; dashed, in the
    same colour, the dense network it came from.
    """
    shown = _searched(run)
    if not shown:
        return None
    figure, axes = style.axes(7.6, 4.6)
    colours = style.ordered_colours(len(shown))
    handles = []
    for result, colour in zip(shown, colours, strict=True):
        [(neurons, losses)] = result.curves.values()
        marker = "o" if len(neurons) < 60 else ""
        handles += axes.plot(
            neurons, losses, color=colour, marker=marker, markersize=3, label=result.label
        )
        if result.dense["loss"] is not None:
            axes.axhline(result.dense["loss"], color=colour, **DENSE_LINE)
    style.log_where_sensible(axes, "x", [n for result in shown for n in result.distinct], 20)
    style.log_where_sensible(axes, "y", _losses(shown))
    axes.set_xlabel("distinct neurons kept")
    axes.set_ylabel(_loss_label(shown))
    axes.set_title("Loss while neurons are added, by iterations of pre-training", loc="left")
    figure.legend(handles=[*handles, *_dashed(shown)], loc="outside right upper")
    return figure


def loss_against_steps(run: Run) -> Figure | None:
    """Loss after each greedy step, with the dense network's loss and the bound of Lemma 1 where the
    lemma applies.
    """
    shown = _searched(run)
    if not shown:
        return None
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = style.canvas(max(3.1 * columns, 6.4), max(2.7 * rows + 0.7, 4.2))
    panels = style.panels(figure, len(shown), columns, sharey=True)
    for axes, result in zip(panels, shown, strict=True):
        steps = range(1, len(result.losses) + 1)
        axes.plot(steps, result.losses, color=style.BLUE)
        if result.dense["loss"] is not None:
            axes.axhline(result.dense["loss"], color="black", **DENSE_LINE)
        if result.bound:
            axes.plot(steps, result.bound, color=style.VERMILION, linewidth=1.0)
        axes.set_title(result.label, loc="left")
    bounds = [bound for result in shown for bound in result.bound]
    style.log_where_sensible(panels[0], "x", [1, max(len(r.losses) for r in shown)], 10)
    style.log_where_sensible(panels[0], "y", [*_losses(shown), *bounds])
    figure.supxlabel("greedy steps (number of picks)", fontsize=10)
    figure.supylabel(_loss_label(shown), fontsize=10)
    handles = [Line2D([], [], color=style.BLUE, label="pruned network"), *_dashed(shown)]
    if bounds:
        handles.append(Line2D([], [], color=style.VERMILION, linewidth=1.0, label="Lemma 1 bound"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def accuracy_against_training(run: Run) -> Figure | None:
    """Accuracy on the test split at each checkpoint; dotted, on the data that was trained on."""
    if len(run.training) < 2:
        return None
    figure, axes = style.axes(6.4, 4.0)
    axes.plot(*zip(*run.training, strict=True), "o-", color=style.BLUE, markersize=4)
    if on_train := run.training_by("accuracy_train"):
        axes.plot(*zip(*on_train, strict=True), "o:", color=style.BLUE, markersize=3)
    _accuracy_by_iterations(axes, "training (iterations)", dotted=bool(on_train))
    axes.set_title("Accuracy of each checkpoint", loc="left")
    return figure


def accuracy_against_pretraining(run: Run) -> Figure | None:
    """Accuracy on the test split of the dense and the pruned network against the iterations of
    pre-training; dotted, of the pruned network on the data that was pruned on.
    """
    points = [
        (iteration, accuracy, result.dense["accuracy"], result.row["accuracy_train"])
        for result in run.results
        if (iteration := result.row["iteration"]) is not None
        and (accuracy := result.row["accuracy"]) is not None
    ]
    told = run.training or "advice" in run.report
    if told or len({iteration for iteration, *_ in points}) < 2:
        return None
    points.sort(key=lambda point: point[0])
    figure, axes = style.axes(6.4, 4.0)
    iterations, pruned, _, _ = zip(*points, strict=True)
    axes.plot(iterations, pruned, "o-", color=style.BLUE, markersize=5, label="pruned network")
    on_train = [(iteration, value) for iteration, *_, value in points if value is not None]
    if on_train:
        axes.plot(*zip(*on_train, strict=True), "o:", color=style.BLUE, markersize=3)
    dense = [(iteration, value) for iteration, _, value, _ in points if value is not None]
    if dense:
        axes.plot(
            *zip(*dense, strict=True), "s", color="black", mfc="none", markersize=8, **DENSE_LINE
        )
    _accuracy_by_iterations(axes, "pre-training (iterations)", dotted=bool(on_train))
    axes.set_title("What pruning keeps after how much pre-training", loc="left")
    axes.legend(loc="best")
    return figure


def enough_pretraining(run: Run) -> Figure | None:
    """Accuracy and loss of the pruned (solid) and the dense network (dashed) at each checkpoint; a
    vertical line is where pre-training was enough.
    """
    advice = run.report.get("advice")
    if advice is None or sum(row["iteration"] > 0 for row in advice["series"]) < 2:
        return None
    series, since = advice["series"], advice["since"]
    iterations = [row["iteration"] for row in series]
    figure = style.canvas(9.6, 4.2)
    shares, losses = figure.subplots(1, 2)
    drawn = (
        (shares, "accuracy_train", style.BLUE, "on training data"),
        (shares, "accuracy_held_out", style.ORANGE, "on held-out data"),
        (losses, "loss", style.BLUE, ""),
    )
    for axes, key, colour, label in drawn:
        rows: Any = series
        pruned = [row[key] for row in rows]
        axes.plot(iterations, pruned, "o-", color=colour, markersize=4, label=label)
        axes.plot(iterations, [row["dense"][key] for row in rows], color=colour, **DENSE_LINE)
    for axes in (shares, losses):
        axes.set_xlabel("pre-training (iterations)")
        if since is not None:
            axes.axvline(since, color=style.VERMILION, linewidth=1.2)
    style.accuracy_axis(shares)
    trained = [row for row in series if row["iteration"] > 0]
    least = min(min(row["accuracy_held_out"], row["accuracy_train"]) for row in trained)
    shares.set(ylabel="accuracy (%)", ylim=(least - 0.25 * (1 - least) - 0.005, 1.005))
    shares.legend(loc="lower right")
    style.log_where_sensible(losses, "y", [row["loss"] for row in series])
    losses.set_ylabel("loss on training data")
    losses.set_title(verdict(advice), loc="left")
    return figure


def time_per_rank(run: Run) -> Figure | None:
    """Where the time of each rank went."""
    splits = [time_split(rank) for rank in run.ranks]
    parts = [part for part in TIMES if any(split.get(part) for split in splits)]
    if not parts:
        return None
    figure, axes = style.axes(7.0, 1.5 + 0.42 * len(splits))
    rows, ends = range(len(splits)), [0.0] * len(splits)
    for part in parts:
        widths = [split.get(part, 0.0) for split in splits]
        axes.barh(rows, widths, 0.62, ends, color=TIMES[part], edgecolor="white", label=part)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(rows, [f"rank {rank['rank']}" for rank in run.ranks])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("time (s), all searches of the run together")
    figure.legend(loc="outside upper left", ncols=len(parts))
    return figure


PLOTS: Sequence[Callable[[Run], Figure | None]] = (
    loss_against_neurons,
    loss_against_steps,
    enough_pretraining,
    accuracy_against_training,
    accuracy_against_pretraining,
    deep_plots.kept_width_per_layer,
    deep_plots.error_against_width,
    deep_plots.accuracy_against_macs,
    *experiment_plots.PLOTS,
    time_per_rank,
)
"""In the order of the page."""


def _searched(run: Run) -> list[Result]:
    return style.spread_out([result for result in run.results if result.losses], MOST_PANELS)


def _accuracy_by_iterations(axes: Axes, label: str, *, dotted: bool) -> None:
    axes.set_xlabel(label)
    style.accuracy_axis(axes, dotted=dotted)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def _losses(results: Sequence[Result]) -> list[float]:
    dense = [result.dense["loss"] for result in results if result.dense["loss"] is not None]
    return [value for result in results for value in result.losses] + dense


def _loss_label(results: Sequence[Result]) -> str:
    squared = "half squared error, mean over samples"
    names = {"squared": squared, "least_squares": squared, "bce": "cross-entropy (nats)"}
    objectives = {str(result.row["objective"]) for result in results}
    known = names.get(objectives.pop()) if len(objectives) == 1 else None
    return f"loss ({known})" if known else "loss"


def _dashed(results: Sequence[Result]) -> list[Line2D]:
    """For the legend, where a dense loss is drawn."""
    has_dense = any(result.dense["loss"] is not None for result in results)
    return [Line2D([], [], color="black", **DENSE_LINE)] if has_dense else []


def blocks_by_objective(report: Report) -> Iterator[tuple[str, Figure]]:
    """Figure 4 for each objective of a benchmark that prunes blocks."""
    results: Sequence[Mapping[str, Any]] = report["results"]
    rows = [row for row in results if "block" in row and row["objective"] in OBJECTIVES]
    forecast = (report.get("tables") or {}).get("forecast") or []
    for objective in dict.fromkeys(row["objective"] for row in rows):
        own = [row for row in rows if row["objective"] == objective]
        more = [row for row in forecast if row["objective"] == objective]
        yield objective, blocks(own, more, objective)


def blocks(rows: Sequence[Row], forecast: Sequence[Row], objective: str) -> Figure:
    """Left: seconds to prune each block; hatched, ranks that were timed one after another, of which
    the slowest of every stretch is added up. Right: the same as speed-up over one worker; dotted,
    what a calibrated model expects of more, with two standard errors; black, the ideal.
    """
    names = list(dict.fromkeys(row["block"] for row in rows))
    figure = style.canvas(11.0, 5.4)
    left, right = figure.subplots(1, 2)
    _times(left, rows, names)
    left.set_title(f"Time to prune a block, {objective}", loc="left")
    _speedups(right, rows, forecast, names)
    right.set_title("Speed-up over one worker", loc="left")
    return figure


def _times(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    kinds = [(row["workers"], row["measured"]) for row in rows]
    kinds = sorted({kind for kind in kinds if kind[1] in (TOGETHER, ALONE)})
    numbers = sorted({workers for workers, _ in kinds})
    colours = dict(zip(numbers, style.ordered_colours(len(numbers)), strict=True))
    width = 0.8 / len(kinds)
    for place, (workers, measured) in enumerate(kinds):
        own = {r["block"]: r for r in rows if (r["workers"], r["measured"]) == (workers, measured)}
        for at, name in enumerate(names):
            if name in own:
                seconds = own[name]["seconds"]
                axes.bar(
                    at + (place - (len(kinds) - 1) / 2) * width,
                    seconds["median"],
                    width,
                    color=colours[workers],
                    hatch=HATCH if measured == ALONE else None,
                    edgecolor="white",
                    yerr=[
                        [seconds["median"] - seconds["min"]],
                        [seconds["max"] - seconds["median"]],
                    ],
                    error_kw={"linewidth": 0.9, "ecolor": "#333333"},
                )
    axes.set_yscale("log")
    style.plain_numbers(axes.yaxis)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(names)), [_label(name, rows) for name in names])
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("seconds (log scale)")
    handles = [Patch(color=colours[number], label=f"{number} workers") for number in numbers]
    handles += [
        Patch(facecolor="white", edgecolor="#333333", hatch=hatch, label=label)
        for label, hatch, kind in (
            ("at once", None, TOGETHER),
            ("critical path of ranks timed alone", HATCH, ALONE),
        )
        if any(measured == kind for _, measured in kinds)
    ]
    axes.legend(handles=handles, fontsize=8, **BELOW, ncols=len(numbers))


def _speedups(
    axes: Axes, rows: Sequence[Row], forecast: Sequence[Row], names: Sequence[str]
) -> None:
    colours = dict(zip(names, style.ordered_colours(len(names)), strict=True))
    most = 1
    for name in names:
        for measured, line in ((TOGETHER, "o-"), (ALONE, "s--")):
            own = sorted(
                (r["workers"], r["speedup"])
                for r in rows
                if (r["block"], r["measured"]) == (name, measured)
            )
            if own:
                label = _label(name, rows).replace("\n", ", ") + f" ({measured})"
                axes.plot(*zip(*own, strict=True), line, color=colours[name], ms=4, label=label)
                most = max(most, own[-1][0])
        more = sorted((r["workers"], r) for r in forecast if r["block"] == name)
        if more:
            workers, speedups = [n for n, _ in more], [r["speedup"] for _, r in more]
            factors = [r["high_s"] / r["seconds"] for _, r in more]
            low = [value - value / factor for value, factor in zip(speedups, factors, strict=True)]
            high = [value * factor - value for value, factor in zip(speedups, factors, strict=True)]
            axes.errorbar(
                workers, speedups, yerr=[low, high], color=colours[name], linestyle=":",
                linewidth=1.0, marker="", capsize=2,
            )  # fmt: skip
            most = max(most, workers[-1])
    ideal = [2**i for i in range(most.bit_length())]
    axes.plot(ideal, ideal, color="black", linewidth=0.9, label="ideal")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    style.plain_numbers(axes.xaxis, axes.yaxis)
    axes.set_xlabel("workers (dotted: forecast by the calibrated model)")
    axes.set_ylabel("times as fast")
    axes.legend(fontsize=7.5, **BELOW, ncols=2)


def _label(name: str, rows: Sequence[Row]) -> str:
    row = next(row for row in rows if row["block"] == name)
    at = f" at {row['size']}" if row.get("size") else ""
    return f"{name}\n{row['channels']}{at}"
