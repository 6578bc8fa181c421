"""Critical paths, forecasts and ways to split, on problems whose answer is planted."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from gfs_dist.bench.model.splits import LayerWork, costs_of_splits
from gfs_dist.bench.model.timing_model import (
    Estimate,
    Exchange,
    Line,
    critical_path,
    fit_non_negative,
    makespan,
    paying_width,
    per_candidate_s,
)
from gfs_dist.errors import InputError


def test_critical_path_is_what_ranks_that_meet_at_barriers_take() -> None:
    drawn = random.Random(0)
    setups = [drawn.random() for _ in range(3)]
    stretches = [[drawn.random() for _ in range(7)] for _ in range(3)]
    clocks, waited = [max(setups)] * 3, [0.0] * 3
    for j in range(7):  # a barrier after every stretch
        clocks = [clock + own[j] for clock, own in zip(clocks, stretches, strict=True)]
        waited = [w + max(clocks) - clock for w, clock in zip(waited, clocks, strict=True)]
        clocks = [max(clocks)] * 3
    found = critical_path(setups, stretches)
    assert found.setup_s + found.steps_s == pytest.approx(clocks[0])
    assert found.wait_s == pytest.approx(max(waited))


def test_ranks_with_other_numbers_of_stretches_are_refused() -> None:
    with pytest.raises(InputError, match=r"found \[2, 1\] of 2 ranks, accepted as many of each"):
        critical_path([1.0, 1.0], [[1.0, 2.0], [1.0]])
    with pytest.raises(InputError, match="of 0 ranks"):
        critical_path([], [])


@pytest.mark.parametrize(
    ("items", "ranks", "seconds"),
    [([3, 1, 1, 1], 2, 3), ([1, 1, 1, 3], 2, 4), ([2, 2], 5, 2), ([], 3, 0), ([1, 2, 3], 1, 6)],
)
def test_an_idle_rank_takes_the_next_item(items: list[int], ranks: int, seconds: int) -> None:
    assert makespan(items, ranks) == seconds


def test_planted_exchange_is_found_again() -> None:
    measured = [
        (ranks, size, 1e-4 * (1 if ranks == 2 else 2) + 2e-9 * size)
        for ranks, size in itertools.product((2, 4), (8, 10**4, 10**6))
    ]
    found = Exchange.fit(measured)
    assert found.latency_s == pytest.approx(1e-4)
    assert found.per_byte_s == pytest.approx(2e-9)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.seconds(1, 10**6) == 0
    assert found.seconds(1024, 8) == pytest.approx(1e-3 + 1.6e-8)


def test_exchange_of_one_rank_cannot_be_fitted() -> None:
    for measured in ([], [(1, 8, 1e-4)]):
        with pytest.raises(InputError, match="accepted exchanges of 2 ranks or more"):
            Exchange.fit(measured)


def test_planted_line_is_found_again_and_its_error_covers_the_truth() -> None:
    drawn = random.Random(1)
    inside = 0
    for _ in range(200):
        points = [
            (share, (0.2 + 3 * share) * (1 + drawn.gauss(0, 0.05)))
            for share in (1, 1 / 2, 1 / 4)
            for _ in range(3)
        ]
        line = Line.fit(points)
        at = line.at(1 / 64)
        truth = 0.2 + 3 / 64
        inside += at.low_s <= truth <= at.high_s
    assert inside > 170
    exact = Line.fit([(share, 0.2 + 3 * share) for share in (1, 0.5, 0.25)])
    assert (exact.fixed_s, exact.shared_s) == pytest.approx((0.2, 3))
    assert exact.at(0.1).seconds == pytest.approx(0.5)
    assert exact.at(0.1).error_s == pytest.approx(0, abs=1e-9)


def test_no_part_of_a_line_is_negative() -> None:
    line = Line.fit([(1, 1.0), (0.5, 0.45), (0.25, 0.2)])
    assert line.fixed_s == 0
    assert 0.7 < line.shared_s < 1


@pytest.mark.parametrize("points", [[(1.0, 2.0), (1.0, 2.1)], [(0.0, 1.0), (1.0, 2.0)], []])
def test_points_that_tell_no_line_are_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(InputError, match="accepted two or more different ones"):
        Line.fit(points)


def test_terms_without_meaning_are_left_out() -> None:
    terms = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    factors, _ = fit_non_negative(terms, torch.tensor([5.0, 3.0], dtype=torch.float64))
    assert factors == pytest.approx((1, 0, 2))


def test_errors_of_parts_add_up_as_squares() -> None:
    total = Estimate.sum([Estimate(1.0, 0.3), Estimate(2.0, 0.4)])
    assert total == pytest.approx((3.0, 0.5))
    assert Estimate(0.1, 1.0).low_s == 0


FREE = Exchange(0.0, 0.0, 0.0)
SLOW = Exchange(0.1, 0.0, 0.0)


def work(**changes: float) -> LayerWork:
    return LayerWork(
        **{
            "candidates": 64, "steps": 10, "once": 100.0, "once_divided": 0.0, "common": 10.0,
            "divided": 100.0, "column_bytes": 0.0, "rows": 8, "cells": 32,
            "table_bytes": 4096, "like": 4, "moments": 400.0, "parts": 8,
        }
        | changes
    )  # fmt: skip


def test_costs_are_what_the_equations_say() -> None:
    costs = costs_of_splits(work(), 4, 10.0, SLOW)
    moments = 400 / 4 / 10
    assert costs == pytest.approx(
        {
            "candidates": moments + (100 + 10 * (10 + 25)) / 10 + 10 * 2 * 0.2,
            "samples": moments + (100 + 10 * 110) / 4 / 10 + 10 * 3 * 0.2,
            "layers": moments + (100 + 10 * 110) / 4 / 10,
        }
    )


def test_a_rank_runs_all_samples_of_its_rows() -> None:
    found = costs_of_splits(work(rows=5, cells=40), 2, 10.0, FREE)
    moments = 400 / 2 / 10
    assert found["samples"] == pytest.approx(moments + (200 * 3 / 5 + 1000 / 2) / 10)


def test_no_rank_has_less_than_a_cell_or_a_candidate() -> None:
    most = costs_of_splits(work(like=1), 128, 10.0, FREE)
    assert costs_of_splits(work(like=1), 1024, 10.0, FREE) == pytest.approx(most)


def test_one_rank_costs_the_same_any_way() -> None:
    assert len(set(costs_of_splits(work(), 1, 10.0, SLOW).values())) == 1


@pytest.mark.parametrize(
    ("changes", "ranks", "exchange", "way"),
    [
        ({"like": 1, "rows": 0}, 4, FREE, "candidates"),
        ({"like": 1}, 64, FREE, "samples"),
        ({"like": 8}, 4, SLOW, "layers"),
        ({"like": 1, "once": 0.0, "common": 0.0, "rows": 1}, 4, FREE, "candidates"),
        ({"like": 1, "steps": 1000}, 1024, Exchange(1.0, 0.0, 0.0), "layers"),
    ],
)
def test_the_cheapest_way_depends_on_ranks_and_exchange(
    changes: dict[str, float], ranks: int, exchange: Exchange, way: str
) -> None:
    costs = costs_of_splits(work(**changes), ranks, 10.0, exchange)
    assert min(costs, key=costs.__getitem__) == way


def test_width_from_which_ranks_pay_is_where_both_take_the_same() -> None:
    candidate_s = per_candidate_s([(n, 1e-4 + 3e-8 * n) for n in (512, 4096, 65536)])
    assert candidate_s == pytest.approx(3e-8)
    for ranks in (2, 8):
        n = paying_width(candidate_s, 3e-4, ranks)
        assert candidate_s * n == pytest.approx(candidate_s * n / ranks + 3e-4)
    assert paying_width(0.0, 1e-4, 2) == float("inf")
    with pytest.raises(InputError, match="accepted two or more widths"):
        per_candidate_s([(8, 1.0), (8, 2.0)])
