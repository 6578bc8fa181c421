"""Widths found by measuring: the largest that is fast enough, noise or not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import pytest

from gfs_dist.errors import BudgetError
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.choose import widths_within
from gfs_dist.pruning.widths.feasible import check_measured

LEAST, DENSE = 100, 10_000


def propose(cost: int) -> dict[str, int]:
    """One layer of which each channel costs 10."""
    return {"layer": cost // 10}


def seconds(widths: Mapping[str, int]) -> float:
    """A fixed part, and steps of 16 channels."""
    return 1.0 + 0.01 * (-(-widths["layer"] // 16) * 16)


def within(
    limit_s: float, seconds: Callable[[Mapping[str, int]], float] = seconds
) -> dict[str, int]:
    def use(widths: Mapping[str, int]) -> dict[str, float]:
        return {"latency": seconds(widths) / limit_s}

    return widths_within(propose, use, LEAST, DENSE)[0]


def test_the_widest_network_that_is_fast_enough_is_found() -> None:
    widths = within(6.0)
    assert seconds(widths) <= 6.0
    assert 500 - DENSE / 10 / 64 - 16 <= widths["layer"] <= 500


def test_everything_stays_where_the_limit_is_loose() -> None:
    assert within(100.0)["layer"] > 1000 * 63 / 64 - 1


def test_a_lucky_measurement_is_not_believed() -> None:
    calls = itertools.count()

    def noisy(widths: Mapping[str, int]) -> float:
        return seconds(widths) - (2.0 if next(calls) < 6 else 0.0)

    widths = within(6.0, noisy)
    assert 460 <= widths["layer"] <= 500


def test_the_smallest_network_is_the_last_resort() -> None:
    least = seconds(propose(LEAST))
    assert within(least)["layer"] <= 16
    with pytest.raises(BudgetError, match=r"the smallest network took 232% of what"):
        within(0.5)


def test_impossible_latency_is_told_before_work() -> None:
    budget = Budget.parse({"latency": "20%", "batch": 8})
    check_measured(budget, "latency", dense=0.010, least=0.002)
    with pytest.raises(
        BudgetError,
        match=r"^budget\.latency: found 20% \(2 ms at batch 8\), but the smallest network "
        r"takes 4\.5 ms \(45%\) on this device$",
    ) as caught:
        check_measured(budget, "latency", dense=0.010, least=0.0045)
    assert caught.value.exit_code == 3
