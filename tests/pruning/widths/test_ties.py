"""Layers that share a width: the same problem with fewer unknowns."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from gfs_dist.pruning.structure.structure import Layer
from gfs_dist.pruning.widths.allocate import allocate
from gfs_dist.pruning.widths.ties import Ties
from tests.pruning.widths.test_allocate import loss, make_curves, spread, two_costs

KINDS = ("ffn", "heads", "ffn", "heads", "ffn", "ffn")
SIZES = (9, 9, 9, 9, 4, 9)
"""Three groups: neurons of blocks with 9, heads, and the one block with 4."""


def layers() -> list[Layer]:
    return [
        Layer(f"layer{i}", size, (), (), (), kind=kind)
        for i, (kind, size) in enumerate(zip(KINDS, SIZES, strict=True))
    ]


def test_layers_of_a_kind_and_size_go_together() -> None:
    ties = Ties.of(layers(), uniform=True)
    groups = ["layer0", "layer1", "layer0", "layer1", "layer4", "layer0"]
    assert list(ties.groups.values()) == groups
    assert ties.expand({"layer0": 3}) == {"layer0": 3, "layer2": 3, "layer5": 3}
    alone = Ties.of(layers(), uniform=False)
    assert all(name == group for name, group in alone.groups.items())


def test_curves_end_with_the_shortest() -> None:
    ties = Ties.of(layers(), uniform=True)
    curves = {"layer0": [3.0, 1.0], "layer2": [2.0, 2.0, 0.0], "layer1": [5.0]}
    assert ties.curves(curves) == {"layer0": [5.0, 3.0], "layer1": [5.0]}


@pytest.mark.parametrize("seed", range(8))
def test_widths_of_groups_cost_what_their_layers_cost_and_hardly_any_are_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = two_costs(rng, layers=6, channels=9, squares=bool(seed % 2))
    costs = replace(costs, channels=dict(zip(costs.channels, SIZES, strict=True)))
    ties = Ties.of(layers(), uniform=True)
    tied = ties.costs(costs)
    curves = make_curves(rng, costs, convex=seed < 4)
    sums = {name: np.array(curve) for name, curve in ties.curves(curves).items()}
    every = [range(1, count + 1) for count in tied.channels.values()]
    points = [dict(zip(tied.channels, widths, strict=True)) for widths in itertools.product(*every)]
    for widths in points[::7]:
        for kind in costs.kinds:
            assert tied.of(kind, widths) == costs.of(kind, ties.expand(widths))
    limits = {kind: int(costs.dense(kind) * rng.uniform(0.3, 0.8)) for kind in costs.kinds}
    for wanted in (limits, {"macs": limits["macs"]}):
        found = allocate(sums, tied, wanted)
        allowed = [p for p in points if all(tied.of(k, p) <= most for k, most in wanted.items())]
        assert found in allowed
        best = min(loss(sums, widths) for widths in allowed)
        assert -1e-12 <= loss(sums, found) - best <= 0.02 * spread(sums)


def test_a_fixed_width_leaves_the_others_cost() -> None:
    rng = np.random.default_rng(1)
    costs = two_costs(rng, layers=4, channels=9, squares=True)
    for name in costs.channels:
        fixed = costs.fixed(name, 5)
        assert fixed.channels.keys() == costs.channels.keys() - {name}
        for _ in range(9):
            others = {other: int(rng.integers(1, 10)) for other in fixed.channels}
            for kind in costs.kinds:
                assert fixed.of(kind, others) == costs.of(kind, {**others, name: 5})


def test_every_layer_alone_is_the_problem_as_it_was() -> None:
    rng = np.random.default_rng(0)
    costs = two_costs(rng, layers=6, channels=9, squares=True)
    ties = Ties.of(layers(), uniform=False)
    tied = ties.costs(costs)
    assert tied.channels == costs.channels
    for kind, cost in costs.kinds.items():
        assert tied.kinds[kind].constant == cost.constant
        assert (tied.kinds[kind].linear == cost.linear).all()
        assert (tied.kinds[kind].pairs == cost.pairs).all()
    curve = {"layer3": [0.1 + 0.2, 0.7, -0.0]}
    assert ties.curves(curve) == curve
