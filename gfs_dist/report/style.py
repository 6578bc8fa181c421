"""How every plot looks: one size of type, colours that colour-blind readers can tell apart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito's palette.
BLUE, SKY, ORANGE, VERMILION, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#767676"
PALE = "#D9D9D9"

DENSE_POINT: Any = {"linestyle": "", "marker": "s", "mfc": "none", "markersize": 8}
RAW_POINT: Any = {"linestyle": "", "marker": "o", "mfc": "none", "markersize": 5}

DPI = 150

Item = TypeVar("Item")

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,  # in names a dollar is a dollar
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}


def canvas(width: float, height: float) -> Figure:
    """An empty figure in inches that needs no display and no global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes."""
    figure = canvas(width, height)
    return figure, figure.add_subplot()


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def ordered_colours(number: int) -> list[Any]:
    """Colours that darken in order, told apart by lightness as well as by hue."""
    scale = mpl.colormaps["viridis_r"]
    return [scale(0.12 + 0.88 * i / (number - 1)) for i in range(number)] if number > 1 else [BLUE]


def panels(figure: Figure, number: int, columns: int, *, sharey: bool = False) -> list[Axes]:
    """Axes in a grid with one x axis; where the last row is short, the row above has its labels."""
    rows = -(-number // columns)
    grid = figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False).ravel()
    for empty in range(number, len(grid)):
        grid[empty].set_visible(False)
        grid[empty - columns].xaxis.set_tick_params(labelbottom=True)
    return list(grid[:number])


def accuracy_axis(axes: Axes, *, dotted: bool = False) -> None:
    """A vertical axis of shares, in percent; ``dotted``: with lines of the training data too."""
    both = "accuracy (%): test split, dotted: training data"
    axes.set_ylabel(both if dotted else "accuracy on the test split (%)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def plain_numbers(*axes: Axis) -> None:
    """Numbers without exponents."""
    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def log_where_sensible(axes: Axes, axis: str, values: Sequence[float], spread: float = 4.0) -> None:
    """A logarithmic axis with plain numbers if all values are positive and spread widely."""
    if not values or min(values) <= 0 or max(values) < spread * min(values):
        return
    axes.set(**{f"{axis}scale": "log"})
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    subs = (1.0, 2.0, 5.0) if max(values) < 300 * min(values) else (1.0,)
    chosen.set_major_locator(LogLocator(base=10.0, subs=subs))
    plain_numbers(chosen)
    chosen.set_minor_formatter(NullFormatter())


def spread_out(items: Sequence[Item], most: int) -> list[Item]:
    """At most ``most`` items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
