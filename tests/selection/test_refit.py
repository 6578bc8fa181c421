"""Orthogonal least squares over contributions, held against fitting every candidate anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gfs_dist
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives import block_least_squares
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from tests.oracles import least_squares
from tests.selection.ranks import search
from tests.selection.test_block import partitions

METHODS = ("elimination", "exhaustive")


def given(seed: int, samples: int = 60, neurons: int = 20, outputs: int = 0):
    """Correlated neurons of different sizes; the target lies near a combination of some."""
    rng = np.random.default_rng(seed)
    shape = (samples, neurons, outputs) if outputs else (samples, neurons)
    mixing = np.eye(neurons) + 0.3 * rng.standard_normal((neurons, neurons))
    contributions = np.einsum("mn...,nk->mk...", rng.standard_normal(shape), mixing)
    contributions *= rng.exponential(1.0, (1, neurons, 1) if outputs else (1, neurons))
    target = contributions[:, :6].mean(1) - contributions[:, 9]
    return contributions, target + 0.2 * rng.standard_normal(target.shape)


def path_of(contributions, target, **more) -> GreedyPath:
    return gfs_dist.select(contributions, target, loss="least_squares", **more)


def objective_of(contributions, target, own=None, method="elimination") -> Objective:
    source = ArrayContributions(torch.as_tensor(contributions))
    own = torch.arange(source.num_candidates) if own is None else own
    recipe = Recipe("least_squares", method, replacement=False)
    return make_objective(recipe, source, torch.as_tensor(target), own)


@pytest.mark.parametrize("outputs", [0, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_each_pick_is_the_best_of_all_refits(seed, method, outputs) -> None:
    contributions, target = given(seed, outputs=outputs)
    picks, losses, gaps, weights = least_squares(contributions, target, 20)
    path = path_of(contributions, target, method=method)
    assert path.picks == picks
    np.testing.assert_allclose(path.loss, losses, rtol=1e-9)
    np.testing.assert_allclose(path.gap[:-1], gaps[:-1], rtol=1e-6, atol=1e-12)
    for k in range(1, 21):
        fitted = path.coefficients(k)
        np.testing.assert_allclose(fitted[picks[:k]], weights[k - 1], rtol=1e-7)
        assert fitted.count_nonzero() == k
        np.testing.assert_allclose(path.prefix(k).coefficients(), fitted, rtol=1e-9)


def test_a_planted_combination_is_found_and_ends_the_search() -> None:
    rng = np.random.default_rng(3)
    contributions = rng.standard_normal((200, 80))
    weights = np.zeros(80)
    weights[[4, 31, 62]] = 5.0, -2.0, 0.3
    path = path_of(contributions, contributions @ weights)
    assert path.picks == [4, 31, 62]
    assert path.stop_reason == "converged"
    np.testing.assert_allclose(path.coefficients(), weights, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_combinations_of_picks_are_not_picked(method, dtype) -> None:
    """40 neurons of rank 12: copies, zeros, sums; in float32 those are sums up to rounding."""
    rng = np.random.default_rng(4)
    base = rng.standard_normal((100, 12)) * rng.exponential(1.0, 12)
    sums = base @ rng.standard_normal((12, 20))
    contributions = np.concatenate([np.zeros((100, 2)), base, base[:, :6], sums], 1).astype(dtype)
    target = rng.standard_normal(100)
    path = path_of(contributions, target, method=method)
    residual = target - base @ np.linalg.lstsq(base, target, rcond=None)[0]
    assert (len(path), path.stop_reason) == (12, "converged")
    assert path.loss[-1] == pytest.approx((residual**2).mean() / 2, rel=1e-5)
    output = contributions @ path.coefficients().numpy()
    assert ((output - target) ** 2).mean() / 2 == pytest.approx(path.loss[-1], rel=1e-6)
    with pytest.warns(RuntimeWarning, match="12 distinct neurons, not 20: no further pick lowers"):
        path_of(contributions, target, method=method, distinct=20)


@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_can_be_explained_one_pick_is_made(method) -> None:
    for contributions, target in ((np.zeros((5, 4)), np.ones(5)), (np.eye(5), np.zeros(5))):
        path = path_of(contributions, target, method=method)
        assert (path.picks, path.stop_reason) == ([0], "converged")
        assert path.coefficients().count_nonzero() == 0


@pytest.mark.parametrize("kind", ["plain", "duplicates"])
@pytest.mark.parametrize("method", METHODS)
def test_picks_do_not_depend_on_ranks(monkeypatch, method, kind) -> None:
    monkeypatch.setattr(block_least_squares, "FLUSH", 9)
    contributions, target = given(5, samples=80, neurons=36)
    if kind == "duplicates":
        contributions[:, 20:30] = contributions[:, 5:15]
    expected = path_of(contributions, target)
    for partition in partitions(36):
        paths, _ = search(
            lambda own: objective_of(contributions, target, own, method), partition, Stop()
        )
        for path in paths:
            assert (path.picks, path.stop_reason) == (expected.picks, expected.stop_reason)
            np.testing.assert_allclose(path.loss, expected.loss, rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("done", [1, 9, 17])
def test_a_search_goes_on_from_any_prefix(method, done) -> None:
    problem = given(6)
    whole = path_of(*problem, method=method)
    path = greedy(objective_of(*problem, method=method), Stop(), path=whole.prefix(done))
    assert path.picks == whole.picks
    np.testing.assert_allclose(path.loss, whole.loss, rtol=1e-12)


def test_the_sizes_of_neurons_change_no_pick() -> None:
    """Their weights are free, so that only directions count."""
    contributions, target = given(7)
    sizes = 10.0 ** np.random.default_rng(0).uniform(-60, 60, 20)
    path, other = path_of(contributions, target), path_of(contributions * sizes, target)
    assert other.picks == path.picks
    np.testing.assert_allclose(other.loss, path.loss, rtol=1e-9)
    weights = other.coefficients().numpy() * sizes
    np.testing.assert_allclose(weights, path.coefficients(), rtol=1e-6)


def test_float32_contributions_are_summed_in_float64() -> None:
    contributions, target = given(8, samples=300)
    rounded = contributions.astype(np.float32)
    narrow, wide = path_of(rounded, target), path_of(rounded.astype(float), target)
    assert narrow.picks == wide.picks
    np.testing.assert_allclose(narrow.loss, wide.loss, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-8), (np.float32, 1e-3)])
def test_moments_alone_give_the_same_path(dtype, rtol) -> None:
    a, y = given(9)
    a[:, 19] = a[:, 2]
    path = path_of(a, y, distinct=12)
    moments = (a.T @ a / len(y)).astype(dtype), (a.T @ y / len(y)).astype(dtype)
    again = gfs_dist.select(
        gram=moments[0], correlation=moments[1], energy=y @ y / len(y), loss="least_squares"
    )
    assert again.picks[:12] == path.picks
    np.testing.assert_allclose(again.loss[:12], path.loss, rtol=rtol)
    np.testing.assert_allclose(again.coefficients(12), path.coefficients(), rtol=30 * rtol)
    assert again.stop_reason == "converged"
    assert len(again) == 19


def test_the_loss_is_never_above_that_of_means_of_as_many_neurons() -> None:
    contributions, target = given(10)
    means = gfs_dist.select(contributions, target, distinct=10)
    fitted = path_of(contributions, target, distinct=10)
    assert (fitted.num_kept, fitted.stop_reason) == (10, "distinct")
    assert fitted.loss == sorted(fitted.loss, reverse=True)
    assert fitted.loss[-1] < means.loss[-1]


def test_tolerance_is_counted_from_the_mean_of_all_neurons() -> None:
    contributions, _ = given(11)
    target = contributions.mean(1) + 0.05 * np.random.default_rng(11).standard_normal(60)
    dense = ((contributions.mean(1) - target) ** 2).mean() / 2
    path = path_of(contributions, target, tolerance=0.0)
    assert path.stop_reason == "tolerance"
    assert path.loss[-1] <= dense < path.loss[-2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replacement": True}, "replacement: found True, accepted False with least_squares"),
        ({"weights": "line_search"}, "weights: found 'line_search', accepted 'uniform' with least"),
        ({"method": "panel"}, "method: found 'panel', accepted auto, elimination, exhaustive"),
    ],
)
def test_what_does_not_go_with_a_refit_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        path_of(*given(12), **arguments)


@pytest.mark.parametrize("place", ["contributions", "target"])
def test_nan_is_refused(place) -> None:
    contributions, target = given(13)
    (contributions[4] if place == "contributions" else target)[...] = np.nan
    with pytest.raises(ValueError, match=f"{place}: .*sample 4|{place}: sample 0 holds nan"):
        path_of(contributions, target)
