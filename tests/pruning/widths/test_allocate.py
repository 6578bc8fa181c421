"""Widths shared out under a limit: exact where exactness can be had, maximal, repeatable."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from gfs_dist.pruning.widths.allocate import allocate, proportional
from gfs_dist.pruning.widths.budget import allowed_widths
from gfs_dist.pruning.widths.costs import Cost, Costs
from tests.oracles import least_loss


def make_costs(channels: list[int], cost: Cost) -> Costs:
    return Costs({f"layer{i}": count for i, count in enumerate(channels)}, {"macs": cost})


def separate(rng: np.random.Generator, layers: int, channels: int) -> Costs:
    """Layers whose costs do not meet, as the inner channels of residual blocks."""
    prices = rng.choice([9, 18, 37, 64, 120], layers)
    return make_costs([channels] * layers, Cost(50, prices, np.zeros((layers, layers), np.int64)))


def chain(rng: np.random.Generator, layers: int, channels: int, squares: bool = False) -> Costs:
    """Each layer feeds the next; with ``squares`` some convolutions map a layer to itself."""
    pairs = np.diag(rng.integers(1, 40, layers - 1), 1)
    if squares:
        pairs += np.diag(rng.integers(0, 3, layers))
    linear = np.zeros(layers, np.int64)
    linear[[0, -1]] = rng.integers(10, 100, 2)
    return make_costs([channels] * layers, Cost(0, linear, pairs))


def make_curves(rng: np.random.Generator, costs: Costs, convex: bool) -> dict[str, np.ndarray]:
    """Falling losses; where they are not convex they rise here and there as well."""
    curves = {}
    for name, channels in costs.channels.items():
        gains = rng.exponential(size=channels) * rng.lognormal()
        gains = np.sort(gains)[::-1] if convex else gains * np.linspace(2, 0, channels) - 0.1
        curves[name] = gains.sum() - np.cumsum(gains)
    return curves


def best_so_far(curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.minimum.accumulate(curve) for name, curve in curves.items()}


def spread(curves: dict[str, np.ndarray]) -> float:
    return sum(float(curve[0] - curve[-1]) for curve in best_so_far(curves).values())


def loss(curves: dict[str, np.ndarray], widths: dict[str, int]) -> float:
    return sum(float(best_so_far(curves)[name][width - 1]) for name, width in widths.items())


def spent(cost: Cost, points: np.ndarray) -> np.ndarray:
    """The cost at many points."""
    return cost.constant + points @ cost.linear + ((points @ cost.pairs) * points).sum(1)


def assert_maximal(
    costs: Costs,
    widths: dict[str, int],
    limit: int,
    round_to: int = 1,
    most: dict[str, int] | None = None,
) -> None:
    assert costs.of("macs", widths) <= limit
    for name, width in widths.items():
        allowed = allowed_widths(costs.channels[name], round_to, most[name] if most else None)
        assert width in allowed
        wider = [w for w in allowed if w > width]
        assert not wider or costs.of("macs", {**widths, name: wider[0]}) > limit, name


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_separate_layers_come_close_to_dynamic_programming(seed: int, convex: bool) -> None:
    rng = np.random.default_rng(seed)
    costs = separate(rng, layers=9, channels=32)
    curves = make_curves(rng, costs, convex)
    cost = costs.kinds["macs"]
    limit = int(costs.dense("macs") * rng.uniform(0.3, 0.8))
    widths = allocate(curves, costs, {"macs": limit})
    assert_maximal(costs, widths, limit)
    best = least_loss(list(best_so_far(curves).values()), cost.linear.tolist(), limit - 50)
    gap = (loss(curves, widths) - best) / spread(curves)
    assert -1e-12 <= gap <= (0.001 if convex else 0.01)


@pytest.mark.parametrize("squares", [False, True])
def test_layers_that_feed_each_other_mostly_get_the_best_widths(squares: bool) -> None:
    points = np.array(list(itertools.product(range(1, 10), repeat=4)))
    gaps = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        costs = chain(rng, layers=4, channels=9, squares=squares)
        curves = make_curves(rng, costs, convex=bool(seed % 2))
        limit = int(costs.dense("macs") * rng.uniform(0.3, 0.8))
        widths = allocate(curves, costs, {"macs": limit})
        assert_maximal(costs, widths, limit)
        table = np.stack(list(best_so_far(curves).values()))
        losses = table[np.arange(4), points - 1].sum(1)
        gaps.append(
            (loss(curves, widths) - losses[spent(costs.kinds["macs"], points) <= limit].min())
            / spread(curves)
        )
    assert min(gaps) > -1e-12
    assert sum(gap < 1e-9 for gap in gaps) >= 25
    assert max(gaps) < 0.02


def two_costs(rng: np.random.Generator, layers: int, channels: int, squares: bool) -> Costs:
    """Multiply-adds and parameters: the same pairs of layers, at other numbers of positions."""
    macs = chain(rng, layers, channels, squares).kinds["macs"]
    positions = rng.choice([1, 4, 16, 64], layers)
    params = Cost(9, macs.linear, macs.pairs)
    macs = Cost(0, positions * macs.linear, positions[:, None] * macs.pairs)
    names = {f"layer{i}": channels for i in range(layers)}
    return Costs(names, {"macs": macs, "params": params})


@pytest.mark.parametrize("squares", [False, True])
def test_two_limits_hold_and_mostly_get_the_best_widths(squares: bool) -> None:
    points = np.array(list(itertools.product(range(1, 9), repeat=4)))
    gaps, binding = [], set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        costs = two_costs(rng, 4, 8, squares)
        curves = make_curves(rng, costs, convex=bool(seed % 2))
        limits = {kind: int(costs.dense(kind) * rng.uniform(0.3, 0.8)) for kind in costs.kinds}
        widths = allocate(curves, costs, limits)
        assert all(costs.of(kind, widths) <= limit for kind, limit in limits.items())
        for name, width in widths.items():
            wider = {**widths, name: width + 1}
            over = [costs.of(kind, wider) > limit for kind, limit in limits.items()]
            assert width == 8 or any(over), "one more channel passes a limit"
        alone = [allocate(curves, costs, {kind: limit}) for kind, limit in limits.items()]
        held = [all(costs.of(k, w) <= limits[k] for k in limits) for w in alone]
        binding.add(tuple(held))
        table = np.stack(list(best_so_far(curves).values()))
        losses = table[np.arange(4), points - 1].sum(1)
        allowed = np.all([spent(costs.kinds[k], points) <= limits[k] for k in limits], axis=0)
        gaps.append((loss(curves, widths) - losses[allowed].min()) / spread(curves))
    assert binding >= {(True, False), (False, True), (False, False)}, "one binds, the other, both"
    assert min(gaps) > -1e-12
    assert sum(gap < 1e-9 for gap in gaps) >= 17
    assert max(gaps) < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_a_second_limit_that_is_loose_costs_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = two_costs(rng, layers=6, channels=12, squares=bool(seed % 2))
    curves = make_curves(rng, costs, convex=False)
    limits = {"macs": costs.dense("macs") // 2, "params": costs.dense("params") // 2}
    for kind, other in (("macs", "params"), ("params", "macs")):
        one, loose = {kind: limits[kind]}, {other: costs.dense(other)}
        alone = allocate(curves, costs, one)
        assert loss(curves, allocate(curves, costs, one | loose)) <= loss(curves, alone) + 1e-12
        assert proportional(costs, one | loose) == proportional(costs, one)


def test_no_random_widths_are_better() -> None:
    rng = np.random.default_rng(0)
    costs = chain(rng, layers=12, channels=40)
    curves = make_curves(rng, costs, convex=False)
    limit = costs.dense("macs") // 2
    found = loss(curves, allocate(curves, costs, {"macs": limit}))
    points = [
        dict(zip(curves, row.tolist(), strict=True)) for row in rng.integers(1, 41, (4000, 12))
    ]
    allowed = [widths for widths in points if costs.of("macs", widths) <= limit]
    assert len(allowed) > 100
    assert found < min(loss(curves, widths) for widths in allowed)


@pytest.mark.parametrize("round_to", [1, 8])
def test_every_limit_is_met_within_one_step(round_to: int) -> None:
    rng = np.random.default_rng(3)
    layers = [4, 12, 40, 64, 64]
    costs = make_costs(layers, chain(rng, 5, 1).kinds["macs"])
    curves = make_curves(rng, costs, convex=False)
    least = {name: min(round_to, count) for name, count in costs.channels.items()}
    for limit in np.linspace(costs.of("macs", least), costs.dense("macs"), 23).astype(int).tolist():
        widths = allocate(curves, costs, {"macs": limit}, round_to=round_to)
        assert_maximal(costs, widths, limit, round_to)
        for name, width in widths.items():
            assert width in allowed_widths(costs.channels[name], round_to)
    assert widths == dict(costs.channels)
    assert allocate(curves, costs, {"macs": costs.of("macs", least)}, round_to=round_to) == least


def test_layers_without_a_curve_stay_whole() -> None:
    rng = np.random.default_rng(0)
    costs = chain(rng, layers=4, channels=9)
    curves = make_curves(rng, costs, convex=True)
    del curves["layer1"]
    limit = costs.dense("macs") // 2
    widths = allocate(curves, costs, {"macs": limit})
    assert list(widths) == ["layer0", "layer2", "layer3"]
    assert_maximal(costs, widths, limit)


def test_a_curve_that_ends_early_is_not_exceeded() -> None:
    costs = separate(np.random.default_rng(0), layers=2, channels=9)
    widths = allocate(
        {"layer0": [3.0, 1.0], "layer1": [1.0] * 9}, costs, {"macs": costs.dense("macs")}
    )
    assert widths == {"layer0": 2, "layer1": 9}


def test_where_nothing_helps_shares_are_equal() -> None:
    rng = np.random.default_rng(0)
    costs = make_costs([8, 16, 64, 64], chain(rng, 4, 1).kinds["macs"])
    limit = costs.dense("macs") // 3
    widths = proportional(costs, {"macs": limit})
    assert_maximal(costs, widths, limit)
    shares = [width / costs.channels[name] for name, width in widths.items()]
    assert max(shares) - min(shares) <= 1 / 8
    assert (
        allocate({name: [1.0] * c for name, c in costs.channels.items()}, costs, {"macs": limit})
        == widths
    )


@pytest.mark.parametrize("round_to", [1, 4])
def test_what_paths_that_end_early_leave_goes_to_the_others(round_to: int) -> None:
    costs = make_costs([8, 16, 64, 64], chain(np.random.default_rng(0), 4, 1).kinds["macs"])
    most = {"layer0": 3, "layer1": 9, "layer2": 64, "layer3": 30}
    curves = {name: np.ones(count) for name, count in most.items()}
    for limit in (costs.dense("macs") // 4, costs.dense("macs") // 2, costs.dense("macs")):
        widths = proportional(costs, {"macs": limit}, round_to=round_to, most=most)
        assert_maximal(costs, widths, limit, round_to, most)
        assert allocate(curves, costs, {"macs": limit}, round_to=round_to) == widths


def test_single_layer_takes_all_there_is() -> None:
    costs = make_costs([9], Cost(10, np.array([5]), np.array([[1]])))
    assert allocate({"layer0": np.arange(9, 0, -1)}, costs, {"macs": 10 + 5 * 4 + 16}) == {
        "layer0": 4
    }
    assert proportional(costs, {"macs": 10 + 5 * 5 + 25}) == {"layer0": 5}


def test_equal_layers_are_served_in_forward_order() -> None:
    costs = make_costs([4, 4], Cost(0, np.array([1, 1]), np.zeros((2, 2), np.int64)))
    curve = [6.0, 3.0, 1.0, 0.0]
    assert allocate({"layer0": curve, "layer1": curve}, costs, {"macs": 5}) == {
        "layer0": 3,
        "layer1": 2,
    }


@pytest.mark.parametrize("convex", [True, False])
def test_fifty_layers_take_no_time_and_repeat(convex: bool) -> None:
    rng = np.random.default_rng(0)
    costs = chain(rng, layers=50, channels=512)
    curves = make_curves(rng, costs, convex)
    limit = costs.dense("macs") // 5
    began = time.process_time()
    first = allocate(curves, costs, {"macs": limit})
    assert time.process_time() - began < 5.0, "half a second where it was written"
    assert allocate(curves, costs, {"macs": limit}) == first
