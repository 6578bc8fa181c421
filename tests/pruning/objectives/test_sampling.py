"""Drawn candidates: few, other ones at every step, spread evenly over the layer."""

from __future__ import annotations

import pytest
import torch

from gfs_dist.pruning.calibration.sampling import Sampling


@pytest.mark.parametrize(("count", "runs"), [(50, 2), (50, 4), (7, 3)])
def test_drawn_candidates_are_spread_over_the_layer(count: int, runs: int) -> None:
    n = 512
    parts = torch.arange(n).tensor_split(runs)
    for step in range(1, 20):
        drawn = Sampling(candidates=count).drawn(torch.arange(n), step)
        assert len(torch.unique(drawn)) == count
        assert torch.equal(drawn, drawn.sort().values)
        shares = [int(torch.isin(drawn, part).sum()) for part in parts]
        assert max(shares) - min(shares) <= 2


def test_every_candidate_left_is_drawn_about_as_often() -> None:
    left = torch.tensor([0, 1, 4, 5, 6, 9, 12, 13, 20, 31])
    sampling, times, steps = Sampling(candidates=3, seed=1), torch.zeros(32), 6_000
    for step in range(steps):
        times[sampling.drawn(left, step)] += 1
    assert int((times > 0).sum()) == len(left)
    # Runs of 3, 3 and 4: a third or a quarter each; 5 standard deviations of 6,000 draws.
    expected = torch.tensor([1 / 3] * 6 + [1 / 4] * 4)
    assert float((times[left] / steps - expected).abs().max()) < 5 * (0.25 / steps) ** 0.5


def test_draws_depend_on_seed_and_step_alone() -> None:
    left = torch.arange(100)
    one = Sampling(candidates=10, seed=3)
    assert torch.equal(one.drawn(left, 5), Sampling(candidates=10, seed=3).drawn(left, 5))
    assert not torch.equal(one.drawn(left, 5), one.drawn(left, 6))
    assert not torch.equal(one.drawn(left, 5), Sampling(candidates=10, seed=4).drawn(left, 5))
    assert torch.equal(Sampling(candidates=100).drawn(left, 1), left)
