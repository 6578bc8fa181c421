"""What ranks take together, by models that are fitted to measured times; numbers alone.

critical_path    ranks that meet at every exchange, each timed alone
makespan         items that idle ranks take one after another
Exchange         one reduction or broadcast, by ranks and bytes
Line             a phase by the share of its work that the slowest rank has, with error bars
paying_width     from which width on more ranks are faster
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gfs_dist.errors import InputError

Spread = Mapping[str, float]
"""Of repeated measurements: median, minimum, maximum."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """See :data:`Spread`."""
    return {"median": statistics.median(values), "minimum": min(values), "maximum": max(values)}


class CriticalPath(NamedTuple):
    """Ranks that meet at every exchange, exchanges not counted; seconds.

    Attributes:
        setup_s: of the slowest rank.
        steps_s: sum over the stretches between exchanges of the slowest rank's.
        wait_s: the most that one rank waits for slower ones, from the end of its set-up on.
    """

    setup_s: float
    steps_s: float
    wait_s: float


def critical_path(setups: Sequence[float], stretches: Sequence[Sequence[float]]) -> CriticalPath:
    """What ranks take that were timed one by one.

        steps = sum_j max_r stretch_rj,     wait = max_r sum_j (max_q stretch_qj - stretch_rj)

    Args:
        setups: seconds of each rank before its first stretch.
        stretches: of each rank, seconds between one exchange and the next.

    Raises:
        InputError: no ranks, or ranks with other numbers of stretches.
    """
    if not setups or len(setups) != len(stretches) or len({len(own) for own in stretches}) != 1:
        raise InputError(
            f"stretches: found {[len(own) for own in stretches]} of {len(setups)} ranks, accepted "
            "as many of each"
        )
    slowest = [max(together) for together in zip(*stretches, strict=True)]
    steps_s = sum(slowest)
    return CriticalPath(max(setups), steps_s, max(steps_s - sum(own) for own in stretches))


def makespan(seconds: Sequence[float], ranks: int) -> float:
    """When the last item is done, if an idle rank always takes the next one.

    Args:
        seconds: of each item, in the order in which they are handed out.
        ranks: at least 1.
    """
    free = [0.0] * ranks
    for item in seconds:
        heapq.heapreplace(free, free[0] + item)
    return max(free)


def fit_non_negative(terms: Tensor, values: Tensor) -> tuple[tuple[float, ...], float]:
    """Factors, none below 0, that make ``terms @ factors`` nearest to ``values``.

        min_f sum_i ((terms_i f - v_i) / v_i)^2

    A term whose factor would be negative is left out, the most negative first.

    Args:
        terms: float64 (points, terms).
        values: float64 (points,), above 0.

    Returns:
        the factors, and the standard deviation of value over fit (0 if there are no more points
        than terms).
    """
    rows, ones = terms / values[:, None], torch.ones_like(values)
    # Terms of very different size, such as 1 and a count of bytes, are solved for in units of
    # their own; a term that is 0 everywhere has no factor.
    sizes = rows.norm(dim=0)
    used = sizes > 0
    factors = torch.zeros(terms.shape[1], dtype=torch.float64)
    while used.any():
        scaled = rows[:, used] / sizes[used]
        found = torch.linalg.lstsq(scaled, ones[:, None], driver="gelsd").solution[:, 0]
        if found.min() >= 0:
            factors[used] = found / sizes[used]
            break
        used[used.nonzero().flatten()[found.argmin()]] = False
    freedom = len(values) - int(used.sum())
    residuals = rows @ factors - 1
    error = float(residuals.square().sum() / freedom) ** 0.5 if freedom > 0 else 0.0
    return tuple(factors.tolist()), error


@dataclass(frozen=True)
class Exchange:
    """Seconds of one reduction or broadcast, ``alpha log2 P + beta bytes``; none for one rank.

    Attributes:
        latency_s: ``alpha``.
        per_byte_s: ``beta``.
        error: standard deviation of measured over fitted, as a share.
    """

    latency_s: float
    per_byte_s: float
    error: float

    @classmethod
    def fit(cls, measured: Sequence[tuple[int, int, float]]) -> Exchange:
        """The exchange nearest to what was measured, in relative terms.

        Args:
            measured: ranks (2 or more), bytes, and seconds of one exchange.

        Raises:
            InputError: nothing measured, or by fewer than 2 ranks.
        """
        if not measured or any(ranks < 2 for ranks, _, _ in measured):
            raise InputError(f"measured: found {measured}, accepted exchanges of 2 ranks or more")
        terms = torch.tensor(
            [[math.log2(ranks), float(size)] for ranks, size, _ in measured], dtype=torch.float64
        )
        seconds = torch.tensor([value for _, _, value in measured], dtype=torch.float64)
        (latency_s, per_byte_s), error = fit_non_negative(terms, seconds)
        return cls(latency_s, per_byte_s, error)

    def seconds(self, ranks: int, num_bytes: int) -> float:
        """Of one exchange of so many bytes."""
        if ranks == 1:
            return 0.0
        return self.latency_s * math.log2(ranks) + self.per_byte_s * num_bytes


class Estimate(NamedTuple):
    """Seconds, and their standard error."""

    seconds: float
    error_s: float

    @classmethod
    def sum(cls, parts: Sequence[Estimate]) -> Estimate:
        """Of independent parts one after another: errors add up as squares."""
        total = sum(part.seconds for part in parts)
        return cls(total, sum(part.error_s**2 for part in parts) ** 0.5)

    @classmethod
    def mean(cls, values: Sequence[float]) -> Estimate:
        """Of a time measured some times, with their standard deviation."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)

    @property
    def low_s(self) -> float:
        """Two standard errors below, at least 0."""
        return max(0.0, self.seconds - 2 * self.error_s)

    @property
    def high_s(self) -> float:
        """Two standard errors above."""
        return self.seconds + 2 * self.error_s


@dataclass(frozen=True)
class Line:
    """Seconds of the slowest rank, ``a + b share``, with the share of all work that it has.

    Attributes:
        fixed_s: ``a``, what every rank does.
        shared_s: ``b``, what is shared out.
        error: standard deviation of measured over fitted, as a share.
        points: that it was fitted to, ``(share, seconds)``.
    """

    fixed_s: float
    shared_s: float
    error: float
    points: tuple[tuple[float, float], ...]

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]]) -> Line:
        """The line nearest to measured times, in relative terms; neither part below 0.

        Args:
            points: shares in (0, 1] and seconds; repeats make error bars.

        Raises:
            InputError: fewer than two different shares, or a share outside (0, 1].
        """
        shares = {share for share, _ in points}
        if len(shares) < 2 or not all(0 < share <= 1 for share in shares):
            raise InputError(
                f"points: found shares {sorted(shares)}, accepted two or more different ones in "
                "(0, 1]"
            )
        terms = torch.tensor([[1.0, share] for share, _ in points], dtype=torch.float64)
        seconds = torch.tensor([value for _, value in points], dtype=torch.float64)
        (fixed_s, shared_s), error = fit_non_negative(terms, seconds)
        return cls(fixed_s, shared_s, error, tuple(points))

    @classmethod
    def constant(cls, seconds: Sequence[float]) -> Line:
        """Of what is not shared out, measured some times."""
        (fixed_s,), error = fit_non_negative(
            torch.ones(len(seconds), 1, dtype=torch.float64),
            torch.tensor(seconds, dtype=torch.float64),
        )
        return cls(fixed_s, 0.0, error, tuple((1.0, value) for value in seconds))

    def at(self, share: float) -> Estimate:
        """A time to expect, with the error of a single measurement there.

            error^2 = s^2 (y^2 + x' (X' W X)^-1 x),   x = (1, share),   W = 1 / y_i^2

        with ``s`` the spread of measured over fitted.
        """
        x = torch.tensor([1.0, share], dtype=torch.float64)
        rows = torch.tensor([[1 / y, s / y] for s, y in self.points], dtype=torch.float64)
        seconds = self.fixed_s + self.shared_s * share
        uncertain = float(x @ torch.linalg.pinv(rows.T @ rows) @ x)
        return Estimate(seconds, self.error * (seconds**2 + max(uncertain, 0.0)) ** 0.5)


def per_candidate_s(points: Sequence[tuple[int, float]]) -> float:
    """``b`` of ``a + b n``, the seconds that a candidate more adds to a step of one rank.

    Args:
        points: candidates and seconds of a step.

    Raises:
        InputError: fewer than two different widths.
    """
    if len({width for width, _ in points}) < 2:
        raise InputError(f"points: found {list(points)}, accepted two or more widths")
    terms = torch.tensor([[1.0, float(n)] for n, _ in points], dtype=torch.float64)
    seconds = torch.tensor([value for _, value in points], dtype=torch.float64)
    return fit_non_negative(terms, seconds)[0][1]


def paying_width(candidate_s: float, exchange_s: float, ranks: int) -> float:
    """Candidates from which ``ranks`` take less time a step than one rank does.

        b n > b n / P + e    <=>    n > e / (b (1 - 1 / P))

    Args:
        candidate_s: ``b``, of a step of one rank.
        exchange_s: ``e``, of all exchanges of a step.
        ranks: 2 or more.
    """
    saved = candidate_s * (1 - 1 / ranks)
    return exchange_s / saved if saved > 0 else math.inf
