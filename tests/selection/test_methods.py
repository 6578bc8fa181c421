"""Every fast path picks what the oracle picks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives import squared
from gfs_dist.selection.objectives.contributions import ArrayContributions, Deviations
from gfs_dist.selection.objectives.factory import Recipe, make_objective, moments_objective
from gfs_dist.selection.objectives.refit import gram_matrix, unshifted
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from tests.oracles import greedy as oracle
from tests.selection.ranks import search

METHODS = {
    "squared": ("panel", "lazy", "streaming", "exhaustive"),
    "bce": ("screened", "exhaustive"),
    "cross_entropy": ("screened", "exhaustive"),
}
CASES = [(loss, method) for loss, methods in METHODS.items() for method in methods]


def objective_of(problem, own: torch.Tensor | None = None, dtype=torch.float64, **recipe: object):
    source = ArrayContributions(torch.as_tensor(problem.contributions, dtype=dtype))
    own = torch.arange(source.num_candidates) if own is None else own
    target = torch.as_tensor(problem.target)
    return make_objective(Recipe(loss=problem.loss, **recipe), source, target, own)


def path_of(problem, stop: Stop, **recipe: object) -> GreedyPath:
    return greedy(objective_of(problem, **recipe), stop)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("weights", ["uniform", "line_search"])
@pytest.mark.parametrize(("loss", "method"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_path_equals_the_oracles(problem, seed, loss, method, weights, replacement) -> None:
    given = problem(seed, loss)
    steps = 20
    picks, losses, gaps = oracle(
        given.contributions, given.target, steps, loss, weights, replacement
    )
    path = path_of(given, Stop(steps), method=method, weights=weights, replacement=replacement)
    # The oracle's one-dimensional search is not exact: picks are compared where it can tell.
    clear = next((k for k, gap in enumerate(gaps) if gap < 1e-7), len(gaps))
    if weights == "uniform":
        clear = steps
    clear = min(clear, len(path))
    assert clear >= 3
    assert path.picks[:clear] == picks[:clear]
    rtol = 1e-10 if weights == "uniform" else 1e-6
    np.testing.assert_allclose(path.loss[:clear], losses[:clear], rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("weights", ["uniform", "line_search"])
@pytest.mark.parametrize("loss", list(METHODS))
@pytest.mark.parametrize("seed", range(2))
def test_all_methods_pick_the_same(problem, seed, loss, weights) -> None:
    given = problem(seed, loss, samples=50, neurons=30)
    paths = [path_of(given, Stop(25), method=m, weights=weights) for m in METHODS[loss]]
    assert all(path.picks == paths[0].picks for path in paths)
    for path in paths:
        np.testing.assert_allclose(path.loss, paths[0].loss, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", ["panel", "lazy", "streaming"])
def test_vector_outputs_are_summed_and_samples_averaged(problem, method) -> None:
    rng = np.random.default_rng(5)
    contributions = rng.standard_normal((30, 16, 3))
    target = contributions[:, :5].mean(1)
    picks, losses, _ = oracle(contributions, target, 12)
    source = ArrayContributions(torch.as_tensor(contributions))
    path = greedy(
        make_objective(Recipe(method=method), source, torch.as_tensor(target), torch.arange(16)),
        Stop(12),
    )
    assert path.picks == picks
    np.testing.assert_allclose(path.loss, losses, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("method", ["panel", "lazy", "streaming", "exhaustive"])
def test_float32_contributions_are_summed_in_float64(problem, method) -> None:
    given = problem(3, samples=200)
    rounded = type(given)(
        given.contributions.astype(np.float32).astype(float), given.target, "squared"
    )
    wide = path_of(rounded, Stop(40), method="exhaustive")
    narrow = greedy(objective_of(given, dtype=torch.float32, method=method), Stop(40))
    assert narrow.picks == wide.picks
    np.testing.assert_allclose(narrow.loss, wide.loss, rtol=1e-12)


def test_float32_screening_equals_float64_on_the_same_numbers(problem) -> None:
    given = problem(4, "bce", samples=200)
    rounded = type(given)(given.contributions.astype(np.float32).astype(float), given.target, "bce")
    wide = path_of(rounded, Stop(40), method="exhaustive")
    narrow = greedy(objective_of(given, dtype=torch.float32, method="screened"), Stop(40))
    assert narrow.picks == wide.picks


@pytest.mark.parametrize("weights", ["uniform", "line_search"])
def test_moments_alone_give_the_same_path(problem, weights) -> None:
    given = problem(6)
    a, y, m = given.contributions, given.target, len(given.target)
    objective = moments_objective(
        Recipe(weights=weights),
        torch.as_tensor(a.T @ a / m),
        torch.as_tensor(a.T @ y / m),
        float(y @ y / m),
        torch.arange(a.shape[1]),
    )
    expected = path_of(given, Stop(30), method="exhaustive", weights=weights)
    assert greedy(objective, Stop(30)).picks == expected.picks


def partitions(neurons: int, seed: int) -> dict[str, Partition]:
    shuffled = torch.randperm(neurons, generator=torch.Generator().manual_seed(seed))
    empty = torch.empty(0, dtype=torch.int64)
    return {
        "contiguous 2": Partition.contiguous(neurons, 2),
        "contiguous 3": Partition.contiguous(neurons, 3),
        "strided 4": Partition.strided(neurons, 4),
        "given, one part empty": Partition([shuffled[:3], empty, shuffled[3:]]),
        "contiguous 4": Partition.contiguous(neurons, 4),
    }


@pytest.mark.parametrize("weights", ["uniform", "line_search"])
@pytest.mark.parametrize(("loss", "method"), CASES)
def test_path_ignores_the_partition(problem, loss, method, weights) -> None:
    given = problem(7, loss, samples=50, neurons=30)
    stop = Stop(20)
    alone = path_of(given, stop, method=method, weights=weights)

    def build(own: torch.Tensor) -> Objective:
        return objective_of(given, own, method=method, weights=weights)

    for name, partition in partitions(30, 7).items():
        paths, threads = search(build, partition, stop)
        for path in paths:
            assert path.picks == alone.picks, name
            assert path.step_sizes == pytest.approx(alone.step_sizes, abs=1e-9), name
            np.testing.assert_allclose(path.loss, alone.loss, rtol=1e-10, atol=1e-13)
        reductions = len(alone) + 1
        gaps, neurons = 8 * (len(alone) + 1), 8 * 30
        # Lengths and columns at first; then of one pass likely candidates and columns made before.
        assert threads.reduced_bytes <= 16 * reductions + gaps + (4 + 3 + 16) * neurons, name


@pytest.mark.parametrize("method", ["lazy", "streaming"])
def test_a_step_reduces_sixteen_bytes_and_no_pick_travels(problem, method) -> None:
    neurons, given = 600, problem(8, samples=50, neurons=600)
    partition = Partition.strided(neurons, 3)
    objectives = [objective_of(given, own, method=method) for own in partition.parts]
    paths, threads = search(None, partition, Stop(31), objectives=objectives)
    assert threads.shared_bytes == 0
    passes = len(objectives[0].columns.held) // 16 - 1
    assert 1 <= passes < paths[0].num_kept / 4
    # 31 gaps in one message, the position of replay in another, lengths and columns in a third.
    expected = 31 * 16 + 31 * 8 + 8 + 2 * neurons * 8
    # For each later pass, how likely candidates are, with their slopes, then which ones are chosen,
    # and what the pass before it made.
    assert threads.reduced_bytes == expected + passes * (3 + 16) * neurons * 8


def test_a_problem_that_is_read_quickly_looks_nowhere_ahead(problem, monkeypatch) -> None:
    given, partition = problem(8, samples=50, neurons=600), Partition.strided(600, 3)
    before, _ = search(lambda own: objective_of(given, own, method="lazy"), partition, Stop(31))
    monkeypatch.setattr(squared, "LOOKED_AHEAD", 50 * 600 + 1)
    objectives = [objective_of(given, own, method="lazy") for own in partition.parts]
    paths, threads = search(None, partition, Stop(31), objectives=objectives)
    assert paths[0].picks == before[0].picks
    passes = len(objectives[0].columns.held) // 16 - 1
    assert passes >= 1
    assert threads.reduced_bytes == 31 * 16 + 31 * 8 + 8 + (2 + passes) * 600 * 8


@pytest.mark.parametrize(("loss", "method"), CASES)
def test_ties_go_to_the_lowest_index_whatever_the_partition(loss, method) -> None:
    rng = np.random.default_rng(9)
    shape = (40, 4, 3) if loss == "cross_entropy" else (40, 4)
    few = rng.standard_normal(shape)
    contributions = np.concatenate([few, few, few], axis=1)  # every neuron three times
    mean = few[:, :2].mean(1)
    target = {"squared": mean, "bce": (mean > 0) * 1.0, "cross_entropy": mean.argmax(-1)}[loss]
    source = ArrayContributions(torch.as_tensor(contributions))

    def build(own: torch.Tensor) -> Objective:
        return make_objective(
            Recipe(loss=loss, method=method), source, torch.as_tensor(target), own
        )

    for partition in (
        Partition.contiguous(12, 1),
        Partition.contiguous(12, 3),
        Partition([[8, 9, 10, 11], [4, 5, 6, 7], [0, 1, 2, 3]]),
    ):
        paths, _ = search(build, partition, Stop(15))
        assert set(paths[0].picks) <= {0, 1, 2, 3}


def test_inputs_are_never_modified(problem) -> None:
    for loss, method in CASES:
        given = problem(10, loss)
        before = given.contributions.copy(), given.target.copy()
        path_of(given, Stop(10), method=method)
        np.testing.assert_array_equal(given.contributions, before[0])
        np.testing.assert_array_equal(given.target, before[1])


@pytest.mark.parametrize(("loss", "method"), CASES)
def test_two_runs_are_bitwise_equal(problem, loss, method) -> None:
    first, second = (path_of(problem(11, loss), Stop(20), method=method) for _ in range(2))
    assert first == second


def test_screening_evaluates_few_candidates(problem) -> None:
    given = problem(12, "bce", samples=300, neurons=200)
    objective = objective_of(given, method="screened")
    greedy(objective, Stop(50))
    assert objective.num_scored == 50 * 200
    assert objective.num_evaluated < 0.1 * objective.num_scored


def test_a_planted_subset_is_found_again() -> None:
    rng = np.random.default_rng(13)
    contributions = np.linalg.qr(rng.standard_normal((80, 40)))[0]
    planted = [3, 11, 17, 30]
    target = contributions[:, planted].mean(1)
    source = ArrayContributions(torch.as_tensor(contributions))
    build: Callable[[str], Objective] = lambda method: make_objective(  # noqa: E731
        Recipe(method=method), source, torch.as_tensor(target), torch.arange(40)
    )
    for method in METHODS["squared"]:
        path = greedy(build(method), Stop(4))
        assert path.support() == planted
        assert path.loss[-1] < 1e-15


@pytest.mark.parametrize(("loss", "method"), CASES)
def test_more_ranks_than_candidates_pick_the_same(loss, method) -> None:
    rng = np.random.default_rng(14)
    shape = (20, 3, 3) if loss == "cross_entropy" else (20, 3)
    contributions = rng.standard_normal(shape)
    target = {"squared": rng.standard_normal(20), "bce": rng.integers(0, 2, 20) * 1.0}
    source = ArrayContributions(torch.as_tensor(contributions))
    given = torch.as_tensor(target.get(loss, rng.integers(0, 3, 20)))

    def build(own: torch.Tensor) -> Objective:
        return make_objective(Recipe(loss=loss, method=method), source, given, own)

    paths, _ = search(build, Partition.strided(3, 5), Stop(8))
    assert paths[4].picks == greedy(build(torch.arange(3)), Stop(8)).picks


@pytest.mark.parametrize("scale", [1e-8, 1e3, 1e4, 1e8])
@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
def test_large_and_small_logits_lose_no_digits(problem, loss, scale) -> None:
    """Sums of large terms that cancel would make losses negative and ties a matter of rounding."""
    for seed in range(2):
        given = problem(seed, loss, samples=20, neurons=16)
        given.contributions[...] *= scale
        given.contributions[:, 8:] = given.contributions[:, :8]
        exhaustive = path_of(given, Stop(15), method="exhaustive")
        assert min(exhaustive.loss) >= 0
        assert path_of(given, Stop(15), method="screened").picks == exhaustive.picks
        paths, _ = search(
            lambda own, given=given: objective_of(given, own, method="exhaustive"),
            Partition.strided(16, 3),
            Stop(15),
        )
        assert paths[0].picks == exhaustive.picks


@pytest.mark.parametrize("method", ["panel", "lazy"])
def test_line_search_converges_alike_on_neurons_that_are_nearly_the_same(method) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        one = rng.standard_normal((12, 1))
        contributions = one + 1e-9 * rng.standard_normal((12, 6))
        source = ArrayContributions(torch.as_tensor(contributions))
        target = torch.as_tensor(rng.standard_normal(12))

        def build(own: torch.Tensor, source=source, target=target) -> Objective:
            recipe = Recipe(method=method, weights="line_search")
            return make_objective(recipe, source, target, own)

        alone = greedy(build(torch.arange(6)), Stop(10))
        paths, _ = search(build, Partition.strided(6, 3), Stop(10))
        assert paths[0].picks == alone.picks
        assert paths[0].stop_reason == alone.stop_reason == "converged"


def test_a_gram_matrix_of_many_neurons_is_symmetric_and_whole() -> None:
    """Above the block size only half of it is multiplied, the rest is mirrored."""
    contributions = np.random.default_rng(15).standard_normal((30, 1300))
    source = Deviations(ArrayContributions(torch.as_tensor(contributions)), unshifted)
    gram = gram_matrix(source, torch.arange(1300), lambda: None)
    assert torch.equal(gram, gram.T)
    np.testing.assert_allclose(gram.numpy(), contributions.T @ contributions / 30, atol=1e-12)


def test_replayed_picks_do_not_count_as_evaluated(problem) -> None:
    given = problem(16, "bce", samples=100, neurons=40)
    path = path_of(given, Stop(40), method="screened")
    objective = objective_of(given, method="screened")
    greedy(objective, Stop(40), path=path.prefix(39))
    assert 0 < objective.evaluated_share <= 1
