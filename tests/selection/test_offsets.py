"""What all contributions have in common with the target changes neither picks nor losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gfs_dist
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.stop import Stop
from tests.oracles import exact_greedy
from tests.selection.ranks import search

SQUARED = ("panel", "lazy", "streaming", "exhaustive")
OFFSETS = (0.0, 1e3, 1e5, 1e6, 1e9)


def planted(seed: int, outputs: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Contributions (20, 12[, outputs]), and nearly the mean of two of them."""
    rng = np.random.default_rng(seed)
    contributions = rng.standard_normal((20, 12, outputs) if outputs else (20, 12))
    mean = contributions[:, [3, 5]].mean(1)
    return contributions, mean + 0.05 * rng.standard_normal(mean.shape)


@pytest.mark.parametrize("weights", ["uniform", "line_search"])
@pytest.mark.parametrize("method", SQUARED)
@pytest.mark.parametrize("outputs", [0, 3])
@pytest.mark.parametrize("offset", OFFSETS)
def test_picks_and_losses_are_the_exact_ones_at_any_offset(
    offset, outputs, method, weights
) -> None:
    contributions, target = (part + offset for part in planted(0, outputs))
    picks, losses = exact_greedy(contributions, target, 6, weights)
    path = gfs_dist.select(contributions, target, steps=6, method=method, weights=weights)
    assert path.picks == picks[: len(path)]
    assert path.loss == pytest.approx(losses[: len(path)], rel=1e-9, abs=1e-15)
    assert len(path) >= 2


@pytest.mark.parametrize("method", SQUARED)
def test_an_offset_of_each_sample_is_no_different(method) -> None:
    """Pressures of places: each sample has a level, which contributions and target share."""
    contributions, target = planted(1)
    level = np.random.default_rng(2).uniform(1e5, 1e6, 20)
    contributions, target = contributions + level[:, None], target + level
    picks, losses = exact_greedy(contributions, target, 6)
    path = gfs_dist.select(contributions, target, steps=6, method=method)
    assert path.picks == picks
    assert path.loss == pytest.approx(losses, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("method", SQUARED)
@pytest.mark.parametrize("shifted", ["target", "contributions"])
def test_an_offset_of_one_side_alone_is_part_of_the_problem(shifted, method) -> None:
    contributions, target = planted(3)
    if shifted == "target":
        target = target + 1e6
    else:
        contributions = contributions + 1e6
    picks, losses = exact_greedy(contributions, target, 6)
    path = gfs_dist.select(contributions, target, steps=6, method=method)
    assert path.picks == picks
    assert path.loss == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("method", SQUARED)
def test_neurons_that_differ_by_little_are_told_apart(method) -> None:
    """A common part of each sample, which is in the target too, and differences of 1e-6 of it."""
    rng = np.random.default_rng(4)
    common = rng.standard_normal((20, 1))
    contributions = common + 1e-6 * rng.standard_normal((20, 12))
    target = contributions[:, [2, 7]].mean(1) + 1e-7 * rng.standard_normal(20)
    picks, losses = exact_greedy(contributions, target, 8)
    path = gfs_dist.select(contributions, target, steps=8, method=method)
    assert path.picks == picks
    assert path.loss == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize("method", SQUARED)
def test_one_neuron_of_enormous_size_ties_nothing(method) -> None:
    contributions, target = planted(5)
    contributions[:, 4] *= 1e9
    picks, losses = exact_greedy(contributions, target, 8)
    path = gfs_dist.select(contributions, target, steps=8, method=method)
    assert path.picks == picks
    assert path.loss == pytest.approx(losses, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("method", SQUARED)
def test_float32_contributions_keep_their_digits(method) -> None:
    contributions, target = planted(6)
    contributions = (contributions + 4096).astype(np.float32)
    target = contributions[:, [3, 5]].astype(np.float64).mean(1)
    picks, losses = exact_greedy(contributions.astype(np.float64), target, 6)
    path = gfs_dist.select(contributions, target, steps=6, method=method)
    assert path.picks == picks
    assert path.loss == pytest.approx(losses, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("method", ["panel", "lazy", "streaming"])
@pytest.mark.parametrize("offset", [1e6, 1e9])
def test_ranks_agree_at_any_offset(offset, method) -> None:
    contributions, target = (part + offset for part in planted(7))
    picks, _ = exact_greedy(contributions, target, 12)
    source, given = ArrayContributions(torch.as_tensor(contributions)), torch.as_tensor(target)

    def build(own: torch.Tensor):
        return make_objective(Recipe(method=method), source, given, own)

    for partition in (Partition.contiguous(12, 3), Partition.strided(12, 4)):
        paths, _ = search(build, partition, Stop(12))
        assert all(path.picks == picks for path in paths)


@pytest.mark.parametrize("weights", ["uniform", "line_search"])
@pytest.mark.parametrize("method", ["screened", "exhaustive"])
def test_logits_of_all_classes_may_be_shifted(problem, method, weights) -> None:
    """A softmax does not see it: the same bits, since these sums are exact."""
    given = problem(8, "cross_entropy")
    logits = np.round(given.contributions * 2**16) / 2**16
    expected, shifted = (
        gfs_dist.select(
            logits + offset,
            given.target,
            loss="cross_entropy",
            steps=10,
            method=method,
            weights=weights,
        )
        for offset in (0.0, 2.0**30)
    )
    assert shifted == expected


@pytest.mark.parametrize("method", ["screened", "exhaustive"])
@pytest.mark.parametrize("offset", [-1e3, 1e3, 1e6])
def test_large_logits_of_two_classes_are_ranked_exactly(problem, offset, method) -> None:
    """One class is right by far, for the other ``L`` grows by the logit: an affine loss."""
    given = problem(9, "bce")
    contributions = given.contributions + offset
    wrong = given.target == (0.0 if offset > 0 else 1.0)
    total = np.array([np.abs(c[wrong]).astype(np.longdouble).sum() for c in contributions.T])
    path = gfs_dist.select(contributions, given.target, loss="bce", steps=5, method=method)
    assert path.picks == [int(total.argmin())] * 5
    assert path.loss == pytest.approx([float(total.min() / 40)] * 5, rel=1e-14)


@pytest.mark.parametrize("method", SQUARED)
def test_the_loss_of_a_pick_is_its_own(method) -> None:
    """Two neurons tie by less than rounding can tell; the lower index is not the better one."""
    rng = np.random.default_rng(10)
    target = rng.standard_normal(20)
    better = target + rng.standard_normal(20)
    worse = target + (better - target) * (1 + 2e-13)
    contributions = np.stack([worse, better], axis=1)
    losses = (
        exact_greedy(contributions, target, 1)[1],
        exact_greedy(contributions[:, :1], target, 1)[1],
    )
    assert losses[1][0] - losses[0][0] > 1e-13 * losses[0][0]
    source, given = ArrayContributions(torch.as_tensor(contributions)), torch.as_tensor(target)

    def build(own: torch.Tensor):
        return make_objective(Recipe(method=method), source, given, own)

    for path in (
        greedy(build(torch.arange(2)), Stop(1)),
        *search(build, Partition([[1], [0]]), Stop(1))[0],
    ):
        assert path.picks == [0]
        assert path.loss == pytest.approx(losses[1], rel=1e-15)


def test_the_loss_of_all_neurons_together_is_exact_at_an_offset() -> None:
    contributions = planted(11)[0] + 1e6
    target = contributions.mean(1) + 0.01 * np.random.default_rng(12).standard_normal(20)
    dense = ((contributions - target[:, None]).mean(1) ** 2).mean() / 2
    path = gfs_dist.select(contributions, target, tolerance=0.01 * dense, steps=500)
    assert path.stop_reason == "tolerance"
    assert path.loss[-1] <= 1.01 * dense * (1 + 1e-9)
    assert min(path.loss[:-1]) > 1.01 * dense


def moments(contributions: np.ndarray, target: np.ndarray) -> dict[str, object]:
    m = target.dtype.type(len(target))
    return {
        "gram": contributions.T @ contributions / m,
        "correlation": contributions.T @ target / m,
        "energy": float(target @ target / m),
    }


@pytest.mark.parametrize(
    ("offset", "dtype"), [(1e3, np.float64), (1e6, np.float64), (30, np.float32), (1e4, np.float32)]
)
def test_moments_that_cannot_tell_the_loss_say_so(offset, dtype) -> None:
    contributions, target = ((part + offset).astype(dtype) for part in planted(0))
    with pytest.warns(UserWarning, match=r"energy: .* subtract the target"):
        gfs_dist.select(**moments(contributions, target), steps=6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("dtype", "precision"), [(np.float64, 1e-11), (np.float32, 1e-3)])
def test_moments_that_tell_the_loss_well_enough_say_nothing(dtype, precision) -> None:
    contributions, target = planted(0)
    picks, losses = exact_greedy(contributions, target, 6)
    path = gfs_dist.select(**moments(contributions.astype(dtype), target.astype(dtype)), steps=6)
    assert path.picks == picks
    assert path.loss == pytest.approx(losses, rel=precision)


def test_moments_of_deviations_give_the_exact_path() -> None:
    """What the warning tells to do."""
    contributions, target = (part + 1e6 for part in planted(0))
    picks, losses = exact_greedy(contributions, target, 6)
    deviations = contributions - target[:, None]
    path = gfs_dist.select(**moments(deviations, np.zeros(20)), steps=6)
    assert path.picks == picks
    assert path.loss == pytest.approx(losses, rel=1e-9, abs=1e-15)
