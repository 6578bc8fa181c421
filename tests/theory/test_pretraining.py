"""Theorem 2's bound, Theorem 3's threshold and the spectrum they need."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gfs_dist.errors import InputError, NonFiniteError, ShapeError
from gfs_dist.theory import (
    initial_spectrum,
    lemma1_bound_by_diameter,
    lemma1_constants,
    pretraining_bound,
    pretraining_threshold,
)


def test_threshold_is_where_the_two_terms_meet():
    k, kappa, loss = 200, 8.0, 0.6
    t = float(pretraining_threshold(k, loss, kappa, step_share=0.5, rate_constant=0.7))
    decayed = loss * (1 - 0.7 * 0.5 / kappa**2) ** t
    assert decayed == pytest.approx(math.log(k) / k)


def test_threshold_grows_with_picks_and_condition_number():
    t = pretraining_threshold(np.array([10, 100, 1000]), 0.6, 8.0)
    assert t.shape == (3,)
    assert np.all(np.diff(t) > 0)
    assert float(pretraining_threshold(100, 0.6, 16.0)) == pytest.approx(4 * t[1], rel=0.01)


def test_a_network_that_starts_well_needs_no_pretraining():
    assert float(pretraining_threshold(10, 0.01, 8.0)) == 0.0
    assert float(pretraining_threshold(10, 0.01, math.inf)) == 0.0


def test_no_pretraining_is_enough_if_the_condition_number_is_infinite():
    assert float(pretraining_threshold(1000, 0.6, math.inf)) == math.inf


def test_constants_of_the_paper_scale_the_threshold():
    args = (100, 0.6, 8.0)
    assert pretraining_threshold(*args, loss_constant=3.0) == pretraining_threshold(
        *args, sparsity_constant=1 / 3
    )
    assert pretraining_threshold(*args, rate_constant=1e9) == 0.0


def test_spectrum_equals_that_of_the_gram_matrix():
    hidden = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = initial_spectrum(hidden)
    eigenvalues = torch.linalg.eigvalsh(hidden @ hidden.T)
    assert found.smallest**2 == pytest.approx(float(eigenvalues[0]))
    assert found.largest**2 == pytest.approx(float(eigenvalues[-1]))
    assert found.condition_number == pytest.approx(found.largest / found.smallest)


def test_fewer_neurons_than_samples_leave_directions_unreached():
    assert initial_spectrum(np.eye(3)[:, :2]).condition_number == math.inf


def test_step_share_is_measured_on_the_mean_loss():
    spectrum = initial_spectrum(3.0 * np.eye(2))
    assert spectrum.step_share(lr=0.5) == pytest.approx(0.5 / 2 * 9 / 4)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(InputError, match="k: found 1, accepted whole numbers from 2"):
        pretraining_threshold(1, 0.6, 8.0)
    with pytest.raises(InputError, match=r"condition_number: found 0\.5, accepted numbers from 1"):
        pretraining_threshold(2, 0.6, 0.5)
    with pytest.raises(InputError, match="step_share: found 2, accepted numbers above 0 up to 1"):
        pretraining_threshold(2, 0.6, 8.0, step_share=2.0)
    with pytest.raises(ShapeError, match=r"hidden: found shape \(3,\)"):
        initial_spectrum(torch.ones(3))
    with pytest.raises(NonFiniteError, match="hidden: found NaN or infinity"):
        initial_spectrum(torch.full((2, 2), math.nan))


CONSTANTS = {"step_share": 0.3, "rate_constant": 2.0, "loss_constant": 1.5}


def test_the_two_terms_of_theorem_2_are_equal_at_the_threshold_of_theorem_3():
    k = np.array([20, 200, 2000])
    t = pretraining_threshold(k, 0.6, 8.0, sparsity_constant=0.4, **CONSTANTS)
    whole = np.ceil(t)
    bound = pretraining_bound(k, whole, 0.6, 8.0, sparsity_constant=0.4, **CONSTANTS)
    picks = 0.4 * np.log(k) / k
    assert np.all(bound - picks <= picks)
    before = pretraining_bound(k, whole - 1, 0.6, 8.0, sparsity_constant=0.4, **CONSTANTS)
    assert np.all(before - picks > picks)


def test_theorem_2_is_lemma_1_and_theorem_7_together():
    contributions = np.random.default_rng(0).standard_normal((8, 60))
    constants = lemma1_constants(contributions, np.zeros(8))
    kept = (1 - 2.0 * 0.3 / 8.0**2) ** np.arange(50)
    initial = constants.dense_loss / kept[-1]
    k = np.arange(1, 40)[:, None]
    width = constants.diameter_squared
    bound = pretraining_bound(
        k, np.arange(50), initial, 8.0, sparsity_constant=width / 2, step_share=0.3, rate_constant=2
    )
    assert bound.shape == (39, 50)
    plain = lemma1_bound_by_diameter(k[:, 0], width, constants.dense_loss)
    assert bound[:, -1] + width / (4 * k[:, 0]) == pytest.approx(plain + 0 * bound[:, -1])
    assert np.all(np.diff(bound, axis=1) < 0)


def test_a_step_that_takes_all_leaves_the_picks_alone():
    bound = pretraining_bound(10, [0, 1], 0.6, 2.0, rate_constant=5.0)
    assert bound == pytest.approx([math.log(10) / 10 + 0.6, math.log(10) / 10])
    with pytest.raises(InputError, match="iterations: found -1, accepted whole numbers from 0"):
        pretraining_bound(10, -1, 0.6, 2.0)
