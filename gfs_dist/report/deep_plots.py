"""Plots of networks that were pruned layer by layer; see :mod:`gfs_dist.report.plots`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from gfs_dist.report import style
from gfs_dist.report.facts import Result, Run

MOST_PANELS = 4
MOST_NAMES = 40
MOST_LINES = 12
# Errors fall to rounding where a layer is whole: below this share of the largest none is shown.
LEAST_ERROR = 1e-4


def kept_width_per_layer(run: Run) -> Figure | None:
    """Channels of each layer that could be pruned, in forward order, and how many of them are
    kept.
    """
    shown = style.spread_out([result for result in run.deep if result.prunable], MOST_PANELS)
    if not shown:
        return None
    names = [[row["name"] for row in result.prunable] for result in shown]
    most = max(map(len, names))
    figure = style.canvas(min(max(6.4, 1.5 + 0.28 * most), 12.0), 1.6 + 1.9 * len(shown))
    panels = figure.subplots(len(shown), 1, sharey=True, squeeze=False).ravel()
    for i, (axes, result) in enumerate(zip(panels, shown, strict=True)):
        places = range(1, len(names[i]) + 1)
        dense, kept = ([row[key] for row in result.prunable] for key in ("channels", "kept"))
        axes.bar(places, dense, color=style.PALE, label="dense")
        axes.bar(places, kept, color=style.BLUE, label="kept")
        axes.set_title(result.name, loc="left")
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("channels")
        axes.set_xlim(0.3, len(places) + 0.7)
        if i + 1 < len(shown) and names[i] == names[i + 1]:
            axes.set_xticks(places, [])
        elif most <= MOST_NAMES:
            axes.set_xticks(places, names[i], rotation=90, fontsize=7)
        else:
            axes.set_xlabel("layer, in forward order")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def error_against_width(run: Run) -> Figure | None:
    """Error of each layer against the share of its channels that it keeps, along its greedy path;
    dots mark the widths that were chosen (on the axis: errors too small to be shown).
    """
    shown = style.spread_out([result for result in run.deep if result.curves], MOST_PANELS)
    if not shown:
        return None
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = style.canvas(max(4.6 * columns, 7.0), 0.9 + 3.4 * rows)
    for axes, result in zip(style.panels(figure, len(shown), columns), shown, strict=True):
        _draw_curves(axes, result)
        axes.set_title(result.name, loc="left")
    objectives = sorted({str(result.row["objective"]) for result in shown})
    figure.supxlabel("channels kept in the layer (%)", fontsize=10)
    figure.supylabel(f"error of the layer ({', '.join(objectives)})", fontsize=10)
    _explain_colours(figure, shown)
    return figure


def accuracy_against_macs(run: Run) -> Figure | None:
    """Accuracy on the test split against multiply-adds: every result of the run, and the dense
    network.
    """
    # Results that only their size tells apart are joined.
    groups: dict[tuple[str, int | None], list[Result]] = {}
    for result in run.deep:
        if result.row["macs"] and result.row["accuracy"] is not None:
            key = str(result.row["objective"]), result.row["iteration"]
            groups.setdefault(key, []).append(result)
    if not groups:
        return None
    figure, axes = style.axes(7.4, 4.2)
    colours = style.ordered_colours(len(groups))
    for ((objective, iteration), group), colour in zip(groups.items(), colours, strict=True):
        several = len({number for _, number in groups}) > 1 and iteration is not None
        when = f", {iteration:,} iterations" if several else ""
        _draw_group(axes, group, colour, objective + when)
    handles, _ = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color="black", **style.DENSE_POINT, label="dense network"))
    if any("cut" in result.accuracy_after for result in run.deep):
        handles.append(Line2D([], [], color="black", **style.RAW_POINT, label="before repairs"))
    figure.legend(handles=handles, loc="outside right upper")
    axes.set_xlim(left=0)
    axes.set_xlabel("multiply-adds for one input")
    style.accuracy_axis(axes)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title("What each size keeps", loc="left")
    return figure


def _draw_group(axes: Axes, group: Sequence[Result], colour: str, label: str) -> None:
    ordered = sorted(group, key=lambda result: result.row["macs"] or 0)
    points = [(result.row["macs"], result.row["accuracy"]) for result in ordered]
    axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=5, label=label)
    raw = [(r.row["macs"], r.accuracy_after["cut"]) for r in ordered if "cut" in r.accuracy_after]
    if raw:
        axes.plot(*zip(*raw, strict=True), color=colour, **style.RAW_POINT)
    dense = ordered[0].dense
    if dense["macs"] and dense["accuracy"] is not None:
        axes.plot(dense["macs"], dense["accuracy"], color=colour, **style.DENSE_POINT)


def _draw_curves(axes: Axes, result: Result) -> None:
    values: list[float] = []
    marks: list[tuple[float, float, Any]] = []
    colours = style.ordered_colours(len(result.prunable))
    for layer, colour in zip(result.prunable, colours, strict=True):
        widths, errors = result.curves.get(layer["name"], ([], []))
        shares = [100 * width / layer["channels"] for width in widths]
        axes.plot(shares, errors, color=colour, linewidth=1.1)
        values += errors
        if layer["kept"] in widths:
            place = widths.index(layer["kept"])
            marks.append((shares[place], errors[place], colour))
    visible = [value for value in values if value > LEAST_ERROR * max(values)]
    style.log_where_sensible(axes, "y", visible)
    if axes.get_yscale() == "log":
        axes.set_ylim(0.7 * min(visible), 1.4 * max(visible))
    axes.set_xlim(0, 103)
    bottom, _ = axes.get_ylim()
    for share, error, colour in marks:
        height = max(error, bottom)
        axes.plot(share, height, "o", color=colour, markersize=4, clip_on=False, zorder=3)


def _explain_colours(figure: Figure, results: Sequence[Result]) -> None:
    """The names of the layers where they fit, else a scale of their numbers."""
    longest = max((result.prunable for result in results), key=len)
    colours = style.ordered_colours(len(longest))
    if len(longest) <= MOST_LINES:
        lines = [
            Line2D([], [], color=colour, label=layer["name"])
            for layer, colour in zip(longest, colours, strict=True)
        ]
        figure.legend(handles=lines, loc="outside right upper", fontsize=8)
        return
    scale = ScalarMappable(Normalize(1, len(longest)), ListedColormap(colours))
    figure.colorbar(scale, ax=figure.axes, label="layer, in forward order", shrink=0.8)
