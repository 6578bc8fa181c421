"""Widths whose network is fast enough, found by measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

from gfs_dist.errors import BudgetError
from gfs_dist.pruning.widths.budget import Budget, percent

HALVINGS = 6
STEPS = 50

Widths = Mapping[str, int]


def check_latency(budget: Budget, dense_s: float, least_s: float) -> None:
    """Refuse a latency that not even the smallest network has.

    Args:
        budget: of the kind ``latency``.
        dense_s: seconds of the dense network.
        least_s: seconds of the network with the smallest allowed widths.

    Raises:
        BudgetError: says what the smallest network takes.
    """
    limit_s = float(budget.share) * dense_s
    if least_s > limit_s:
        raise BudgetError(
            f"budget.latency: found {percent(budget.share)} ({1e3 * limit_s:.3g} ms at batch "
            f"{budget.batch}), but the smallest network there is takes {1e3 * least_s:.3g} ms "
            f"({percent(Fraction(round(100 * least_s / dense_s), 100))}) on this device"
        )


def widths_within(
    limit_s: float,
    propose: Callable[[int], Widths],
    seconds: Callable[[Widths], float],
    least: int,
    dense: int,
) -> Widths:
    """The widths of largest cost whose measured time is within the limit.

    Time falls with cost, but in steps and with noise: the cost is halved down to 1/64 of its
    range, and what was found is measured once more. While it then takes too long, the next
    smaller widths are taken, 2 % of the dense cost at a time.

    Args:
        limit_s: seconds.
        propose: the best widths of at most a cost.
        seconds: that a network of these widths takes, the median of several runs.
        least: cost of the smallest widths.
        dense: cost of the whole network.

    Raises:
        BudgetError: not even the smallest network is fast enough, this time.
    """
    low, high = least, dense
    for _ in range(HALVINGS):
        middle = (low + high) // 2
        if seconds(propose(middle)) <= limit_s:
            low = middle
        else:
            high = middle
    for cost in range(low, least, -max(1, dense // STEPS)):
        if seconds(widths := propose(cost)) <= limit_s:
            return widths
    if (found := seconds(widths := propose(least))) > limit_s:
        raise BudgetError(
            f"budget.latency: the smallest network took {1e3 * found:.3g} ms where "
            f"{1e3 * limit_s:.3g} ms are allowed"
        )
    return widths
