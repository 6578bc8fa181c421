"""The least loss over the hull of the neurons, against other solvers and planted problems."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from gfs_dist import select
from gfs_dist.errors import InputError, NonFiniteError, ShapeError
from gfs_dist.theory import (
    HullMinimum,
    hull_minimum,
    lemma1_bound,
    lemma1_bound_by_diameter,
    lemma1_constants,
)

KINDS = ["gaussian", "tanh", "off_centre", "relu", "duplicates", "flat"]


def problem(kind: str, seed: int, most: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    m, n = (int(rng.integers(1, most)) for _ in range(2))
    inside = rng.standard_normal((m, 3)) @ rng.standard_normal((3, n))
    contributions = {
        "gaussian": lambda: rng.standard_normal((m, n)),
        "tanh": lambda: np.tanh(inside) * rng.standard_normal(n),
        "off_centre": lambda: rng.standard_normal((m, n)) * 0.1 + 10,
        "relu": lambda: np.maximum(inside, 0) * rng.standard_normal(n),
        "duplicates": lambda: rng.standard_normal((m, 3))[:, rng.integers(0, 3, n)],
        "flat": lambda: inside,
    }[kind]()
    return contributions, np.sign(rng.standard_normal(m))


def by_enumeration(contributions: np.ndarray, target: np.ndarray) -> float:
    """The least loss, as the best over all faces on whose affine hull it has no negative weight."""
    m, n = contributions.shape
    best = math.inf
    for size in range(1, n + 1):
        for face in itertools.combinations(range(n), size):
            points = contributions[:, face]
            edges = points[:, 1:] - points[:, :1]
            found = np.linalg.lstsq(edges, target - points[:, 0], rcond=None)[0]
            weights = np.concatenate([[1 - found.sum()], found])
            if weights.min() >= -1e-12:
                best = min(best, float(((points @ weights - target) ** 2).sum()) / (2 * m))
    return best


def loss_of(found: HullMinimum, contributions: np.ndarray, target: np.ndarray) -> float:
    return float(((contributions @ found.coefficients.numpy() - target) ** 2).mean()) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_small_hulls_equal_the_best_of_all_faces(kind: str, seed: int) -> None:
    contributions, target = problem(kind, seed, most=9)
    found = hull_minimum(contributions, target)
    least = by_enumeration(contributions, target)
    assert found.loss == pytest.approx(least, rel=1e-9, abs=1e-15)
    assert found.lower <= least + 1e-15


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_steps", [1, 3, 7, 100_000])
def test_the_least_loss_is_between_loss_minus_gap_and_loss(kind: str, max_steps: int) -> None:
    for seed in range(20):
        contributions, target = problem(kind, 100 + seed)
        found = hull_minimum(contributions, target, max_steps=max_steps)
        least = hull_minimum(contributions, target, tolerance=0.0).loss
        assert found.loss == pytest.approx(loss_of(found, contributions, target), rel=1e-9)
        assert found.lower <= least <= found.loss * (1 + 1e-12) + 1e-25
        if max_steps > 100:
            assert found.gap <= 1e-9 * ((contributions - target[:, None]) ** 2).mean(0).min()


@pytest.mark.parametrize("seed", range(3))
def test_another_solver_finds_nothing_lower(seed: int) -> None:
    contributions, target = problem("tanh", 300 + seed, most=25)
    m, n = contributions.shape
    gradient = contributions.T @ contributions / m
    other = minimize(
        lambda w: ((contributions @ w - target) ** 2).sum() / (2 * m),
        np.full(n, 1 / n),
        jac=lambda w: gradient @ w - contributions.T @ target / m,
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 2000},
    )
    found = hull_minimum(contributions, target)
    assert found.lower <= other.fun + 1e-12
    assert found.loss <= other.fun + 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_an_average(kind: str) -> None:
    contributions, target = problem(kind, 5)
    found = hull_minimum(contributions, target)
    assert found.coefficients.shape == (contributions.shape[1],)
    assert float(found.coefficients.min()) >= 0
    assert float(found.coefficients.sum()) == pytest.approx(1, abs=1e-14)
    assert found.num_kept <= len(target) + 1


def test_a_target_inside_the_hull_is_reached() -> None:
    rng = np.random.default_rng(0)
    contributions = rng.standard_normal((30, 200))
    found = hull_minimum(contributions, contributions @ rng.dirichlet(np.ones(200)))
    assert found.loss < 1e-25
    assert found.lower == 0.0


def test_a_target_outside_is_as_far_as_it_was_put() -> None:
    # The hull touches the plane x_0 = 0 at a known average of four neurons; the target is above it.
    rng = np.random.default_rng(1)
    contributions = rng.standard_normal((12, 60))
    contributions[0] = -np.abs(contributions[0]) - 0.01
    contributions[0, :4] = 0
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    target = contributions[:, :4] @ weights
    target[0] = 0.7
    found = hull_minimum(contributions, target)
    assert found.loss == pytest.approx(0.7**2 / 24, rel=1e-12)
    assert found.coefficients[:4].numpy() == pytest.approx(weights)
    assert found.num_kept == 4


def test_nearly_parallel_neurons_do_not_hide_the_minimum() -> None:
    rng = np.random.default_rng(2)
    contributions = 1.0 + 1e-6 * rng.standard_normal((20, 120))
    target = contributions @ rng.dirichlet(np.ones(120))
    found = hull_minimum(contributions, target)
    assert found.loss < 1e-9 * ((contributions - target[:, None]) ** 2).mean(0).min()
    assert found.lower == 0.0


def test_more_samples_than_neurons_outputs_and_tiles_give_the_same() -> None:
    rng = np.random.default_rng(3)
    contributions, target = rng.standard_normal((40, 15, 3)), rng.standard_normal((40, 3))
    found = hull_minimum(contributions, target)
    flat = contributions.transpose(0, 2, 1).reshape(120, 15)
    alone = hull_minimum(flat, target.reshape(-1))
    assert found.loss == pytest.approx(3 * alone.loss)
    assert found.gap < 1e-8
    rows = torch.from_numpy(contributions).transpose(0, 1)
    tiled = hull_minimum(lambda neurons: rows[neurons], target, num_neurons=15)
    torch.testing.assert_close(tiled.coefficients, found.coefficients)


def test_one_neuron_is_its_own_hull() -> None:
    found = hull_minimum(np.ones((4, 1)), np.zeros(4))
    assert (found.loss, found.steps) == (0.5, 0)
    assert found.gap < 1e-14


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["uniform", "line_search"])
def test_lemma1_holds_with_the_hull_minimum(kind: str, weights: str) -> None:
    for seed in range(4):
        contributions, target = problem(kind, 200 + seed)
        losses = np.array(select(contributions, target, steps=60, weights=weights).loss)
        constants = lemma1_constants(contributions, target)
        least = hull_minimum(contributions, target)
        assert least.lower <= constants.dense_loss
        k = np.arange(1, len(losses) + 1)
        width = constants.diameter_squared
        closer = lemma1_bound(k, constants.first_loss, width, least.loss)
        assert np.all(losses <= closer * (1 + 1e-12) + 1e-15)
        assert np.all(closer <= np.array(constants.bound(len(losses))) * (1 + 1e-12))
        assert np.all(closer <= lemma1_bound_by_diameter(k, width, least.loss) * (1 + 1e-12))


def test_what_does_not_fit_is_refused() -> None:
    ones = np.ones((4, 3))
    with pytest.raises(ShapeError, match=r"contributions: found shape \(4, 3\)"):
        hull_minimum(ones, np.ones(5))
    with pytest.raises(NonFiniteError, match="at neuron 1, sample 2"):
        hull_minimum(np.where(np.arange(12).reshape(4, 3) == 7, np.nan, ones), np.ones(4))
    with pytest.raises(InputError, match="tolerance: found -1"):
        hull_minimum(ones, np.ones(4), tolerance=-1)
    with pytest.raises(InputError, match="max_steps: found 0, accepted 1 or more"):
        hull_minimum(ones, np.ones(4), max_steps=0)
