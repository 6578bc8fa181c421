"""The plots of a run: each function returns PNG bytes, or None where the facts are missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gfs_dist.report import deep_plots, style
from gfs_dist.report.facts import Result, time_split

MOST_PANELS = 9
DENSE_LINE: Any = {"linestyle": (0, (5, 3)), "linewidth": 1.1, "label": "dense network"}
TIMES = {
    "set-up": style.GREY,
    "joining": style.SKY,
    "compute": style.BLUE,
    "exchange": style.ORANGE,
    "wait": style.VERMILION,
}


def draw(
    results: Sequence[Result], timing: Mapping[str, Any], trained: Sequence[tuple[int, float]] = ()
) -> dict[str, bytes]:
    """All plots that the facts allow, by file name; ``trained`` is what a training came to."""
    with style.styled():
        drawn = {
            "loss_against_neurons.png": loss_against_neurons(results),
            "loss_against_steps.png": loss_against_steps(results),
            **(
                {"accuracy_against_training.png": accuracy_against_training(trained)}
                if trained
                else {"accuracy_against_pretraining.png": accuracy_against_pretraining(results)}
            ),
            **deep_plots.draw(results),
            "time_per_rank.png": time_per_rank(timing),
        }
    return {name: data for name, data in drawn.items() if data is not None}


def loss_against_neurons(results: Sequence[Result]) -> bytes | None:
    """Loss of each checkpoint against distinct neurons, with its dense loss dashed."""
    shown = style.spread_out([result for result in results if result.losses], MOST_PANELS)
    if not shown:
        return None
    figure = style.canvas(7.6, 4.6)
    axes = figure.add_subplot()
    colours = style.ordered_colours(len(shown))
    handles = []
    for result, colour in zip(shown, colours, strict=True):
        neurons, losses = result.by_distinct()
        marker = "o" if len(neurons) < 60 else ""
        handles += axes.plot(
            neurons, losses, color=colour, marker=marker, markersize=3, label=result.label
        )
        if result.dense_loss is not None:
            axes.axhline(result.dense_loss, color=colour, **DENSE_LINE)
    style.log_where_sensible(axes, "x", [n for result in shown for n in result.distinct], 20)
    style.log_where_sensible(axes, "y", _losses(shown))
    axes.set_xlabel("distinct neurons kept")
    axes.set_ylabel(_loss_label(shown))
    axes.set_title("Loss while neurons are added, by iterations of pre-training", loc="left")
    if any(result.dense_loss is not None for result in shown):
        handles.append(_dashed())
    figure.legend(handles=handles, loc="outside right upper")
    return style.png(figure)


def loss_against_steps(results: Sequence[Result]) -> bytes | None:
    """One panel a checkpoint: loss, dense loss and Lemma 1's bound against greedy steps."""
    shown = style.spread_out([result for result in results if result.losses], MOST_PANELS)
    if not shown:
        return None
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = style.canvas(max(3.1 * columns, 6.4), max(2.7 * rows + 0.7, 4.2))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, result in zip(panels, shown, strict=False):
        steps = range(1, len(result.losses) + 1)
        axes.plot(steps, result.losses, color=style.BLUE)
        if result.dense_loss is not None:
            axes.axhline(result.dense_loss, color="black", **DENSE_LINE)
        if result.bound:
            axes.plot(steps, result.bound, color=style.VERMILION, linewidth=1.0)
        axes.set_title(result.label, loc="left")
    for empty in range(len(shown), len(panels)):
        panels[empty].set_visible(False)
        panels[empty - columns].xaxis.set_tick_params(labelbottom=True)
    most = max(len(result.losses) for result in shown)
    bounds = [bound for result in shown for bound in result.bound]
    style.log_where_sensible(panels[0], "x", [1, most], 10)
    style.log_where_sensible(panels[0], "y", [*_losses(shown), *bounds])
    figure.supxlabel("greedy steps (number of picks)", fontsize=10)
    figure.supylabel(_loss_label(shown), fontsize=10)
    handles = [Line2D([], [], color=style.BLUE, label="pruned network")]
    if any(result.dense_loss is not None for result in shown):
        handles.append(_dashed())
    if bounds:
        handles.append(Line2D([], [], color=style.VERMILION, linewidth=1.0, label="Lemma 1 bound"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return style.png(figure)


def accuracy_against_pretraining(results: Sequence[Result]) -> bytes | None:
    """Accuracy of the dense and the pruned network against iterations of pre-training."""
    pairs = [
        (result.iteration, result.accuracy, result.dense_accuracy)
        for result in results
        if result.iteration is not None and result.accuracy is not None
    ]
    if len({iteration for iteration, _, _ in pairs}) < 2:
        return None
    pairs.sort(key=lambda pair: pair[0])
    figure = style.canvas(6.4, 4.0)
    axes = figure.add_subplot()
    iterations, pruned, _ = zip(*pairs, strict=True)
    axes.plot(iterations, pruned, "o-", color=style.BLUE, markersize=5, label="pruned network")
    dense = [(iteration, value) for iteration, _, value in pairs if value is not None]
    if dense:
        axes.plot(
            *zip(*dense, strict=True), "s", color="black", mfc="none", markersize=8, **DENSE_LINE
        )
    _accuracy_by_iterations(axes, "pre-training (iterations)")
    axes.set_title("What pruning keeps after how much pre-training", loc="left")
    axes.legend(loc="best")
    return style.png(figure)


def accuracy_against_training(trained: Sequence[tuple[int, float]]) -> bytes | None:
    """Accuracy of every checkpoint of a training."""
    if len(trained) < 2:
        return None
    figure = style.canvas(6.4, 4.0)
    axes = figure.add_subplot()
    axes.plot(*zip(*trained, strict=True), "o-", color=style.BLUE, markersize=4)
    _accuracy_by_iterations(axes, "training (iterations)")
    axes.set_title("Accuracy of each checkpoint", loc="left")
    return style.png(figure)


def _accuracy_by_iterations(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy on the test split (%)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def time_per_rank(timing: Mapping[str, Any]) -> bytes | None:
    """Where the time of each rank went."""
    ranks = timing.get("ranks") or []
    splits = [time_split(rank) for rank in ranks]
    parts = [part for part in TIMES if any(split.get(part) for split in splits)]
    if not parts:
        return None
    figure = style.canvas(7.0, 1.5 + 0.42 * len(ranks))
    axes = figure.add_subplot()
    ends = [0.0] * len(ranks)
    labels = [f"rank {rank.get('rank', position)}" for position, rank in enumerate(ranks)]
    for part in parts:
        widths = [split.get(part, 0.0) for split in splits]
        rows = range(len(ranks))
        axes.barh(rows, widths, 0.62, ends, color=TIMES[part], edgecolor="white", label=part)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(range(len(ranks)), labels)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("time (s), all searches of the run together")
    figure.legend(loc="outside upper left", ncols=len(parts))
    return style.png(figure)


def _losses(results: Sequence[Result]) -> list[float]:
    dense = [result.dense_loss for result in results if result.dense_loss is not None]
    return [value for result in results for value in result.losses] + dense


def _loss_label(results: Sequence[Result]) -> str:
    names = {"squared": "half squared error, mean over samples", "bce": "cross-entropy (nats)"}
    objectives = {str(result.row.get("objective")) for result in results}
    known = names.get(objectives.pop()) if len(objectives) == 1 else None
    return f"loss ({known})" if known else "loss"


def _dashed() -> Line2D:
    return Line2D([], [], color="black", **DENSE_LINE)
