"""Least-squares fits of laws to measured points, and how sure their parameters are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
Vector = NDArray[np.float64]
HALF_SATURATIONS = 400
"""Values of the plateau law's scale that are tried, evenly in its logarithm."""


class Fit(NamedTuple):
    """A law fitted to points.

    Attributes:
        law: in words, with its parameters' names.
        values: parameters by name.
        rms: root of the mean squared relative error.
        aicc: Akaike's criterion for small samples, ``n log(RSS/n) + 2p + 2p(p+1)/(n-p-1)``: the law
            with the smallest one fits best; infinite where there are too few points to tell.
    """

    law: str
    values: Mapping[str, float]
    rms: float
    aicc: float


def linear_fit(law: str, names: Sequence[str], terms: Sequence[Vector], y: Vector) -> Fit:
    """``y ~ sum_j c_j terms_j`` with the smallest squared relative error.

    Args:
        names: of the ``c_j``.
        terms: one vector a parameter, as long as ``y``.
        y: positive.
    """
    matrix = np.stack(terms, axis=1) / y[:, None]
    found, *_ = np.linalg.lstsq(matrix, np.ones(len(y)), rcond=None)
    residual = matrix @ found - 1
    values = {name: float(value) for name, value in zip(names, found, strict=True)}
    return _fit(law, values, residual)


def growth_fits(x: Vector, y: Vector) -> list[Fit]:
    """The three laws a threshold may follow: logarithm, power, plateau; of ``y > 0`` at ``x > 0``.

    Relative errors count, since both axes span orders of magnitude. The plateau law
    ``a x / (x + h)`` reaches half of its plateau ``a`` at ``h``.
    """
    one, log_x = np.ones_like(x), np.log(x)
    slope, level = np.polyfit(log_x, np.log(y), 1) if len(x) > 1 else (math.nan, math.nan)
    power = {"a": float(np.exp(level)), "p": float(slope)}
    scales = np.geomspace(x.min() / 100, x.max() * 100, HALF_SATURATIONS)
    plateaus = [(linear_fit("", ["a"], [x / (x + h)], y), float(h)) for h in scales]
    best, half = min(plateaus, key=lambda found: found[0].rms)
    plateau = {"a": best.values["a"], "h": half}
    return [
        linear_fit("a + b log x", ["a", "b"], [one, log_x], y),
        _fit("a x^p", power, power["a"] * x ** power["p"] / y - 1),
        _fit("a x / (x + h)", plateau, plateau["a"] * x / (x + half) / y - 1),
    ]


def slope_interval(x: Vector, y: Vector) -> tuple[float, float, float]:
    """The slope of ``log y`` over ``log x``, and its 95 % interval by Student's t.

    Returns:
        slope, low, high; the interval is infinite with fewer than three points.
    """
    from scipy import stats

    if len(x) < 2:
        return math.nan, -math.inf, math.inf
    if len(x) < 3:
        slope = float(np.diff(np.log(y))[0] / np.diff(np.log(x))[0])
        return slope, -math.inf, math.inf
    found = stats.linregress(np.log(x), np.log(y))
    half = float(stats.t.ppf(0.975, len(x) - 2)) * found.stderr
    return float(found.slope), float(found.slope - half), float(found.slope + half)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation of a single value; None of one alone."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), deviation


def spread(values: Iterable[float], form: str) -> str:
    """Mean and standard deviation in words, by the format ``form``."""
    mean, deviation = mean_and_deviation(list(values))
    unsigned = form.replace("+", "")
    return format(mean, form) + ("" if deviation is None else f" ± {deviation:{unsigned}}")


def group(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows by ``key``, in their order."""
    grouped: dict[Any, list[Row]] = {}
    for row in rows:
        grouped.setdefault(key(row), []).append(row)
    return grouped


def _fit(law: str, values: Mapping[str, float], residual: Vector) -> Fit:
    number, parameters = len(residual), len(values)
    squares = float(residual @ residual) / number
    left = number - parameters - 1
    aicc = math.inf
    if left > 0:
        penalty = 2 * parameters + 2 * parameters * (parameters + 1) / left
        aicc = number * math.log(max(squares, 1e-300)) + penalty
    return Fit(law, values, math.sqrt(squares), aicc)
