"""The plot of ``gfs benchmark suite=appendix_d``: the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from gfs_dist.records import Report
from gfs_dist.report import style

Row = Mapping[str, Any]

OBJECTIVES = ("network_loss", "layer_output", "least_squares")
"""Those of deep networks; a file is named after one."""

TOGETHER, ALONE = "whole", "critical path"
HATCH = "////"
BELOW: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}


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
