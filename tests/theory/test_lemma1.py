"""Lemma 1 against a plain greedy search, its constants against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import lambertw

from gfs_dist.errors import InputError, NonFiniteError, ShapeError
from gfs_dist.theory import (
    diameter_by_weights,
    lemma1_bound,
    lemma1_bound_by_diameter,
    lemma1_constants,
    sparsity_for_tolerance,
    why_no_bound,
)


def greedy_losses(contributions, target, num_steps):
    """Algorithm 1, every candidate from scratch: losses after each pick."""
    total, losses = torch.zeros_like(target), []
    for k in range(1, num_steps + 1):
        outputs = (total[:, None] + contributions) / k
        scores = ((outputs - target[:, None]) ** 2).sum(0) / (2 * len(target))
        best = int(scores.argmin())
        total = total + contributions[:, best]
        losses.append(float(scores[best]))
    return losses


def brute_force_diameter(contributions):
    differences = contributions[:, :, None] - contributions[:, None, :]
    return float((differences**2).sum(0).max()) / len(contributions)


def problem(kind, seed):
    generator = torch.Generator().manual_seed(seed)
    m = int(torch.randint(3, 40, (1,), generator=generator))
    n = int(torch.randint(1, 80, (1,), generator=generator))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    contributions = {
        "gaussian": lambda: normal(m, n),
        "tanh": lambda: torch.tanh(normal(m, 5) @ normal(5, n)) * normal(n),
        "off_centre": lambda: normal(m, n) * 0.1 + 10.0,
        "relu": lambda: torch.relu(normal(m, 5) @ normal(5, n)) * normal(n),
    }[kind]()
    return contributions, normal(m).sign()


def gaussian(m, n):
    generator = torch.Generator().manual_seed(m + n)
    contributions = torch.randn(m, n, generator=generator, dtype=torch.float64)
    return contributions, torch.randn(m, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["gaussian", "tanh", "off_centre", "relu"])
@pytest.mark.parametrize("seed", range(8))
def test_greedy_never_exceeds_the_bound(kind, seed):
    contributions, target = problem(kind, seed)
    losses = np.array(greedy_losses(contributions, target, 60))
    constants = lemma1_constants(contributions, target)
    bound = np.array(constants.bound(60))
    assert np.all(losses <= bound * (1 + 1e-12) + 1e-15)
    assert losses[0] == pytest.approx(bound[0], rel=1e-12)


@pytest.mark.parametrize("kind", ["gaussian", "tanh", "off_centre", "relu"])
@pytest.mark.parametrize("memory_bytes", [1, 40_000, 2**20])
def test_constants_equal_brute_force_for_any_tile_size(kind, memory_bytes):
    contributions, target = problem(kind, 3)
    found = lemma1_constants(contributions, target, memory_bytes=memory_bytes)
    assert found.exact
    assert found.diameter_squared == pytest.approx(brute_force_diameter(contributions), rel=1e-12)
    dense = ((contributions.mean(1) - target) ** 2).mean() / 2
    assert found.dense_loss == pytest.approx(float(dense), rel=1e-12)


@pytest.mark.parametrize("kind", ["gaussian", "tanh", "off_centre", "relu"])
@pytest.mark.parametrize("seed", range(8))
def test_the_diameter_alone_bounds_every_pick(kind, seed):
    contributions, target = problem(kind, seed)
    found = lemma1_constants(contributions, target)
    steps = np.arange(1, 61)
    looser = lemma1_bound_by_diameter(steps, found.diameter_squared, found.dense_loss)
    assert np.all(np.array(found.bound(60)) <= looser * (1 + 1e-12))


@pytest.mark.parametrize("seed", range(5))
def test_theorem_1_from_the_output_weights_alone_keeps_its_promise(seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(30, generator=generator, dtype=torch.float64)
    hidden = torch.tanh(3 * torch.randn(12, 30, generator=generator, dtype=torch.float64))
    target = torch.randn(12, generator=generator, dtype=torch.float64).sign()
    found = lemma1_constants(hidden * weights, target)
    width = diameter_by_weights(weights)
    assert found.diameter_squared <= width
    for tolerance in (0.2, 1.0):
        k = sparsity_for_tolerance(tolerance, width, first_excess=width / 4)
        losses = greedy_losses(hidden * weights, target, k)
        assert losses[-1] <= found.dense_loss + tolerance


def test_the_diameter_by_weights_is_reached_by_opposite_neurons():
    contributions = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    assert diameter_by_weights([1.0, -1.0], 2.0) == 16.0
    assert lemma1_constants(contributions, torch.zeros(2)).diameter_squared == 16.0
    with pytest.raises(InputError, match="output_weights: found nan"):
        diameter_by_weights([math.nan])


def test_a_case_worked_by_hand():
    # Neurons (0, 0), (4, 0), (0, 2), target (1, 1): the farthest pair is 20 apart (squared), the
    # dense output (4/3, 2/3), the best single neuron (0, 0) or (0, 2) with squared error 2.
    contributions = np.array([[0.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    constants = lemma1_constants(contributions, np.array([1.0, 1.0]))
    assert constants.diameter_squared == pytest.approx(10.0)
    assert constants.first_loss == pytest.approx(0.5)
    assert constants.dense_loss == pytest.approx(2 / 9 / 4)
    second = 0.5 / 2 + math.log(2) / 4 * 10.0 + 0.5 / 18
    assert constants.bound(2) == pytest.approx([0.5, second])


def test_bound_takes_numbers_and_arrays_of_any_shape():
    assert float(lemma1_bound(1, 0.7, 3.0, 0.1)) == 0.7
    table = lemma1_bound(np.arange(1, 7).reshape(2, 3), 0.7, 3.0, 0.1)
    assert table.shape == (2, 3)
    assert table[1, 2] == float(lemma1_bound(torch.tensor(6), 0.7, 3.0, 0.1))


def test_bound_falls_to_the_dense_loss():
    assert float(lemma1_bound(10**12, 0.7, 3.0, 0.1)) == pytest.approx(0.1, abs=1e-9)


def test_a_function_of_tiles_gives_the_same_constants_as_the_array():
    contributions, target = gaussian(25, 70)
    rows = contributions.T.contiguous()
    asked = []

    def tile(neurons):
        asked.append(len(neurons))
        return rows[neurons]

    small = lemma1_constants(tile, target, num_neurons=70, memory_bytes=12_000)
    assert small == lemma1_constants(contributions, target, memory_bytes=12_000)
    assert max(asked) == 10


def test_outputs_are_summed_and_samples_averaged():
    generator = torch.Generator().manual_seed(0)
    contributions = torch.randn(6, 9, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    found = lemma1_constants(contributions, target)
    flat = contributions.transpose(1, 2).reshape(18, 9)
    assert found.diameter_squared == pytest.approx(3 * brute_force_diameter(flat))
    single = ((contributions - target[:, None]) ** 2).sum((0, 2)).min() / 12
    assert found.first_loss == pytest.approx(float(single))


def test_out_of_work_the_diameter_is_a_labelled_upper_bound():
    contributions, target = gaussian(30, 60)
    exact = brute_force_diameter(contributions)
    bounds = []
    for allowed in (0.0, 2_000.0, 8_000.0):
        found = lemma1_constants(contributions, target, max_products=allowed, memory_bytes=1)
        assert not found.exact
        assert found.row(2)["exact"] is False
        bounds.append(found.diameter_squared)
    assert bounds[0] > bounds[1] > bounds[2] > exact

    radii = (contributions - contributions[:, :1]).norm(dim=0)
    assert bounds[0] == pytest.approx((2 * float(radii.max())) ** 2 / len(target))


def test_few_neurons_far_out_spare_most_pairs():
    generator = torch.Generator().manual_seed(0)
    contributions = torch.randn(200, 2000, generator=generator, dtype=torch.float64) * 0.01
    contributions[:, 17] += 1.0
    contributions[:, 1900] -= 1.0
    all_pairs = 2000 * 2000 * 200 / 2
    found = lemma1_constants(contributions, torch.zeros(200), max_products=all_pairs / 5)
    assert found.exact
    pair = ((contributions[:, 17] - contributions[:, 1900]) ** 2).mean()
    assert found.diameter_squared == pytest.approx(float(pair))


def test_a_single_neuron_has_no_diameter():
    constants = lemma1_constants(torch.ones(4, 1), torch.zeros(4))
    assert constants.diameter_squared == 0.0
    assert constants.bound(3) == pytest.approx([0.5, 0.5, 0.5])


def test_float32_contributions_are_summed_in_float64_and_left_alone():
    contributions = torch.full((5, 3), 0.1)
    before = contributions.clone()
    constants = lemma1_constants(contributions, torch.zeros(5))
    assert constants.first_loss == pytest.approx(float(np.float32(0.1)) ** 2 / 2, rel=1e-14)
    assert torch.equal(contributions, before)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-2, 0.1, 0.3])
def test_sparsity_is_the_lambert_w_corollary(tolerance):
    constant = 1.5
    exact = -(constant / tolerance) * lambertw(-tolerance / constant, -1).real
    assert sparsity_for_tolerance(tolerance, 2 * constant) == math.ceil(exact)


@pytest.mark.parametrize("excess", [0.0, 0.2, 40.0])
@pytest.mark.parametrize("tolerance", [0.05, 0.5, 1.2, 50.0])
def test_sparsity_keeps_its_promise_from_there_on(tolerance, excess):
    k = sparsity_for_tolerance(tolerance, 3.0, excess)
    later = np.arange(k, k + 5000)
    assert np.all(lemma1_bound(later, 1.0 + excess, 3.0, 1.0) <= 1.0 + tolerance + 1e-12)
    if k > 1:
        assert float(lemma1_bound(k - 1, 1.0 + excess, 3.0, 1.0)) > 1.0 + tolerance


def test_lemma1_says_where_it_does_not_hold():
    assert why_no_bound("squared") == ""
    assert "does not cover objective=bce" in why_no_bound("bce")
    assert "does not cover weights that are refitted" in why_no_bound("least_squares", False)
    assert "does not cover replacement=false" in why_no_bound("squared", replacement=False)


def test_steps_that_are_not_whole_numbers_from_1_are_refused():
    with pytest.raises(InputError, match="k: found 0, accepted whole numbers from 1"):
        lemma1_bound([1, 0], 1.0, 1.0, 1.0)
    with pytest.raises(InputError, match=r"k: found 1\.5, accepted whole numbers from 1"):
        lemma1_bound(1.5, 1.0, 1.0, 1.0)


def test_constants_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"diameter_squared: found -1\.0, accepted a finite"):
        lemma1_bound(1, 1.0, -1.0, 1.0)
    with pytest.raises(InputError, match="first_loss: found nan"):
        lemma1_bound(1, math.nan, 1.0, 1.0)
    with pytest.raises(InputError, match=r"tolerance: found 0\.0, accepted .* above 0"):
        sparsity_for_tolerance(0.0, 1.0)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"contributions: found shape \(4, 3\)"):
        lemma1_constants(torch.ones(4, 3), torch.ones(5))
    with pytest.raises(ShapeError, match="contributions: found 0 neurons"):
        lemma1_constants(torch.ones(4, 0), torch.ones(4))
    with pytest.raises(ShapeError, match=r"target: found shape \(0,\)"):
        lemma1_constants(torch.ones(0, 3), torch.ones(0))
    with pytest.raises(ShapeError, match="num_neurons: found None"):
        lemma1_constants(lambda neurons: torch.ones(len(neurons), 4), torch.ones(4))
    with pytest.raises(ShapeError, match=r"the function gave \(2, 5\), not \(2, 4\)"):
        lemma1_constants(lambda neurons: torch.ones(len(neurons), 5), torch.ones(4), num_neurons=2)


def test_non_finite_numbers_are_refused_by_name():
    contributions = torch.ones(4, 3)
    contributions[2, 1] = math.nan
    with pytest.raises(NonFiniteError, match="at neuron 1, sample 2"):
        lemma1_constants(contributions, torch.ones(4), memory_bytes=1)
    with pytest.raises(NonFiniteError, match="target: found NaN or infinity at sample 3"):
        lemma1_constants(torch.ones(4, 3), torch.tensor([1.0, 1.0, 1.0, math.inf]))
