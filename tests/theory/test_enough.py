"""Whether training was enough: series with known answers, and what holds of every series."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from gfs_dist.records import SeriesFacts, SeriesRow
from gfs_dist.theory import Rule, judge

RULE = Rule(threshold=0.002)


def facts(loss: float, accuracy: float) -> SeriesFacts:
    held_out = accuracy - 0.01
    return {
        "loss": loss,
        "accuracy": held_out,
        "accuracy_train": accuracy,
        "accuracy_held_out": held_out,
    }


def series_of(
    points: Sequence[tuple[int, float]],
    dense: Sequence[float] | None = None,
    dense_loss: float = 0.2,
) -> list[SeriesRow]:
    """Checkpoints by iteration and accuracy of the pruned network, which is the dense one's too."""
    dense = [accuracy for _, accuracy in points] if dense is None else dense
    return [
        {
            "iteration": iteration,
            **facts(0.1, accuracy),
            "dense": facts(dense_loss, whole),
            "gain": None,
            "rise": None,
            "overlap": None,
            "enough": False,
        }
        for (iteration, accuracy), whole in zip(points, dense, strict=True)
    ]


RISING = [(0, 0.71), (500, 0.92), (1000, 0.95), (2000, 0.97), (4000, 0.98)]
PLATEAU = [(0, 0.71), (500, 0.94), (1000, 0.97), (1500, 0.9705), (2000, 0.971), (3000, 0.9711)]


@pytest.mark.parametrize(
    ("points", "since"),
    [
        (RISING, None),
        (PLATEAU, 2000),
        ([(500, 0.95), (1000, 0.9995)], 1000),  # nothing is left to gain
        ([(0, 0.71)], None),
        ([(0, 0.71), (100, 0.95)], None),  # nothing to compare with
        ([(0, 0.71), (10, 0.711), (20, 0.711), (40, 0.7111)], None),  # has not begun to learn
        ([(0, 0.9), (500, 0.8), (1000, 0.8), (2000, 0.8)], None),  # worse than untrained
        ([(500, 0.95), (1000, 0.93), (2000, 0.93)], None),  # fell, and may come back
        ([(500, 0.95), (1000, 0.93), (2000, 0.9505)], 2000),
        ([(1000, 0.95), (1010, 0.9501), (1020, 0.9502)], None),  # too near to each other
        ([(1000, 0.95), (1900, 0.951), (2000, 0.9515)], 2000),
        ([(500, 0.9), (1000, 0.9), (2000, 0.95), (4000, 0.951)], 4000),  # fired at 1000, wrongly
        ([], None),
    ],
)
def test_series_with_known_answers(points: list[tuple[int, float]], since: int | None) -> None:
    found = judge(series_of(points), RULE)
    assert found.since == since
    assert found.verdict == ("too_early" if since is None else "enough")


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (RISING, r"still rose by 1\.00 points up to iteration 4,000"),
        ([(500, 0.95), (1000, 0.93)], r"is 2\.00 points below that of iteration 500"),
        ([(0, 0.7), (5, 0.9)], "old enough to compare"),
        ([(0, 0.7)], "no checkpoint after iteration 0"),
        ([(0, 0.7), (10, 0.7), (20, 0.7)], "no better than untrained"),
        (PLATEAU, r"at iteration 2,000 .* risen by 0\.10 points, the dense one's by 0\.10"),
        ([(500, 0.95), (1000, 0.9995)], r"99\.95 % leaves less than 0\.2 points"),
    ],
)
def test_the_reason_is_told(points: list[tuple[int, float]], reason: str) -> None:
    assert re.search(reason, judge(series_of(points), RULE).reason)


def test_certainly_takes_a_second_checkpoint_and_neurons_that_are_the_limit() -> None:
    assert judge(series_of(PLATEAU[:5], dense_loss=0.05), RULE).verdict == "enough"
    assert judge(series_of(PLATEAU), RULE).verdict == "enough"  # the dense loss is above
    found = judge(series_of(PLATEAU, dense_loss=0.05), RULE)
    assert (found.verdict, found.since) == ("certainly_enough", 2000)
    assert "the number of neurons is the limit" in found.reason


def test_where_the_dense_network_still_improves_it_is_too_early() -> None:
    dense = [0.5, 0.97, 0.98, 0.985, 0.99, 0.995]
    found = judge(series_of(PLATEAU, dense=dense), RULE)
    assert (found.verdict, found.since) == ("too_early", None)
    assert "the dense network's best accuracy still rose by 1.00 points" in found.reason


def test_two_in_a_row_and_no_earlier_than() -> None:
    assert judge(series_of(PLATEAU), replace(RULE, in_a_row=2)).since == 3000
    assert judge(series_of(PLATEAU[:5]), replace(RULE, in_a_row=2)).since is None
    assert judge(series_of(PLATEAU), replace(RULE, earliest=3000)).since == 3000
    assert judge(series_of(PLATEAU), replace(RULE, earliest=3001)).since is None


def random_series(seed: int) -> list[SeriesRow]:
    """Uneven iterations, accuracies that rise, stand or fall."""
    draw = random.Random(seed)
    iteration, accuracy, points = 0, draw.uniform(0.4, 0.9), []
    for _ in range(draw.randrange(2, 15)):
        points.append((iteration, accuracy))
        iteration += draw.choice([1, 10, 100, 1000])
        step = draw.choice([0.0, 0.0005, 0.003, 0.02, -0.001, -0.01])
        accuracy = min(1.0, max(0.0, accuracy + step))
    return series_of(points)


@pytest.mark.parametrize("seed", range(60))
def test_a_series_that_gains_more_than_the_threshold_at_each_step_is_too_early(seed: int) -> None:
    draw = random.Random(seed)
    iteration, accuracy, points = 0, 0.5, []
    while accuracy < 0.99:
        points.append((iteration, accuracy))
        iteration += draw.choice([1, 10, 100, 1000])
        accuracy += RULE.threshold + draw.choice([1e-6, 0.001, 0.05])
    assert not any(RULE.fired(series_of(points)))
    assert judge(series_of(points), RULE).verdict == "too_early"


@pytest.mark.parametrize("seed", range(60))
def test_a_larger_threshold_never_asks_for_more_training(seed: int) -> None:
    series, before = random_series(seed), float("inf")
    fired = [False] * len(series)
    for threshold in (0.0005, 0.002, 0.005, 0.03):
        rule = replace(RULE, threshold=threshold)
        now = rule.fired(series)
        assert all(later or not sooner for sooner, later in zip(fired, now, strict=True))
        since = judge(series, rule).since
        assert since is None or since <= before
        assert since is not None or before == float("inf")
        fired, before = now, before if since is None else since


@pytest.mark.parametrize("seed", range(60))
def test_the_rule_looks_back_alone(seed: int) -> None:
    series = random_series(seed)
    whole = RULE.fired(series)
    for end in range(len(series) + 1):
        assert RULE.fired(series[:end]) == whole[:end]
        found = judge(series[:end], RULE)
        if found.since is not None:
            assert found.since in [row["iteration"] for row in series[:end]]
    first = next((place for place, enough in enumerate(whole) if enough), None)
    if first is not None:  # a training that stops by it stops there
        assert judge(series[: first + 1], RULE).since == series[first]["iteration"]
        assert judge(series[:first], RULE).since is None
