"""Widths improved by measuring: never worse than the start, within the limit, nothing left over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from gfs_dist.pruning.widths.allocate import proportional
from gfs_dist.pruning.widths.budget import allowed_widths
from gfs_dist.pruning.widths.costs import Cost, Costs
from gfs_dist.pruning.widths.width_search import LEVEL, Widths, WidthSearch, falling


class Case:
    """A random network of few and narrow layers, some of whose paths end early, and its loss."""

    def __init__(self, seed: int, bumps: float = 0.1) -> None:
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 6))
        self.channels = {f"layer{i}": int(rng.choice([2, 3, 5, 8, 20])) for i in range(count)}
        pairs = np.triu(rng.integers(0, 9, (count, count)), 1)
        cost = Cost(7, rng.integers(1, 50, count), pairs)
        self.costs = Costs(self.channels, {"macs": cost})
        self.round_to = int(rng.choice([1, 2, 4]))
        least = self.costs.of("macs", self.costs.least(self.round_to))
        self.limit = int(rng.integers(least, self.costs.dense("macs") + 1))
        ends = rng.integers(1, list(self.channels.values()), endpoint=True)
        self.most = dict(zip(self.channels, ends.tolist(), strict=True))
        self.curves = {name: [1 / (k + 1) for k in range(end)] for name, end in self.most.items()}
        self.trials = int(rng.choice([4, 10, 60]))
        self.scales = dict(zip(self.channels, rng.lognormal(size=count).tolist(), strict=True))
        self.bumps, self.measured, self.apart = bumps, 0, set[int]()

    def loss(self, widths: Widths) -> float:
        """Falling in each width, and bumpy."""
        bump = self.bumps * float(np.sin(sum(widths.values())))
        return sum(self.scales[name] / width for name, width in widths.items()) + bump

    def measure(self, wanted: Sequence[Widths], anchor: Widths | None) -> list[float]:
        self.measured += len(wanted)
        if anchor is not None:
            self.apart |= {
                sum(widths[name] != anchor[name] for name in widths) for widths in wanted
            }
        return [self.loss(widths) for widths in wanted]

    def search(self, trials: int) -> WidthSearch:
        return WidthSearch(
            self.costs, {"macs": self.limit}, self.curves, self.measure, trials, self.round_to
        )

    def allowed(self, name: str) -> list[int]:
        return allowed_widths(self.channels[name], self.round_to, self.most[name])


@pytest.mark.parametrize("seed", range(12))
def test_widths_get_better_and_no_layer_could_have_more(seed: int) -> None:
    case = Case(seed)
    costs, round_to = case.costs, case.round_to
    start = proportional(costs, {"macs": case.limit}, round_to=round_to, most=case.most)
    search = case.search(case.trials)
    widths, loss = search.run([start])
    assert search.used == case.measured <= case.trials
    assert case.apart <= {1}
    assert loss == case.loss(widths) <= case.loss(start)
    assert costs.of("macs", widths) <= case.limit
    for name, width in widths.items():
        allowed = case.allowed(name)
        assert width in allowed
        wider = [w for w in allowed if w > width]
        assert not wider or costs.of("macs", {**widths, name: wider[0]}) > case.limit, name


@pytest.mark.parametrize("seed", range(8))
def test_the_best_widths_are_found_where_the_model_holds(seed: int) -> None:
    case = Case(seed, bumps=0.0)
    start = proportional(case.costs, {"macs": case.limit}, round_to=case.round_to, most=case.most)
    search = case.search(100)
    _, loss = search.run([start])
    choices = [[(name, width) for width in case.allowed(name)] for name in case.most]
    every = [dict(widths) for widths in product(*choices)]
    best = min(case.loss(w) for w in every if case.costs.of("macs", w) <= case.limit)
    assert loss <= best + 0.02 * (max(map(case.loss, every)) - best)


def test_without_trials_for_a_round_the_best_start_is_taken() -> None:
    case = Case(3)
    least = case.costs.least(case.round_to)
    start = proportional(case.costs, {"macs": case.limit}, round_to=case.round_to, most=case.most)
    search = case.search(2)
    best = min((least, start), key=case.loss)
    assert search.run([least, start]) == (best, case.loss(best))
    assert search.used == 2
    assert set(search.weights().values()) == {1.0}


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_losses_that_are_no_numbers_weigh_nothing(share: float) -> None:
    case, rng = Case(5), np.random.default_rng(0)
    finite = case.loss
    case.loss = lambda widths: np.inf if rng.random() < share else finite(widths)  # type: ignore[method-assign]
    start = proportional(case.costs, {"macs": case.limit}, round_to=case.round_to, most=case.most)
    search = case.search(60)
    widths, _ = search.run([start])
    assert case.costs.of("macs", widths) <= case.limit
    assert all(0 < weight < np.inf for weight in search.weights().values())


def test_curves_fall_and_level_parts_a_little() -> None:
    curve = falling([4.0, 5.0, 2.0, 2.0, 3.0])
    assert (np.diff(curve) < 0).all()
    np.testing.assert_allclose(curve, [4.0, 4.0, 2.0, 2.0, 2.0], atol=2 * LEVEL)
