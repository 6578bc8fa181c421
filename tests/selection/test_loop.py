"""The loop: equations 9-11, stop rules, replay."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gfs_dist.errors import InputError, NonFiniteError
from gfs_dist.selection.loop import GAP_BATCH, greedy
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.stop import Stop
from tests.oracles import greedy as oracle
from tests.selection.ranks import search
from tests.selection.test_methods import objective_of, path_of


def test_a_problem_small_enough_to_do_by_hand() -> None:
    # Contributions (2,0), (0,2), (1,0); target (1,1); two samples, so L = |u - y|^2 / 4.
    source = ArrayContributions(torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 0.0]]))
    objective = make_objective(
        Recipe(method="panel"), source, torch.tensor([1.0, 1.0]), torch.arange(3)
    )
    path = greedy(objective, Stop(2))
    # alone: losses 2/4, 2/4, 1/4 -> neuron 2; then with neuron 1: u = (1/2, 1), L = 1/16
    assert path.picks == [2, 1]
    assert path.loss == [0.25, 0.0625]
    assert path.gap[0] == pytest.approx(0.25)
    assert path.coefficients().tolist() == [0.0, 0.5, 0.5]
    assert path.stop_reason == "steps"


def test_every_prefix_is_the_shorter_search(problem) -> None:
    given = problem(0)
    whole = path_of(given, Stop(30), method="lazy")
    for steps in (1, 7, 29):
        short = path_of(given, Stop(steps), method="lazy")
        assert whole.prefix(steps).picks == short.picks
        assert whole.loss[:steps] == short.loss


@pytest.mark.parametrize("weights", ["uniform", "line_search"])
def test_coefficients_reproduce_the_recorded_loss(problem, weights) -> None:
    given = problem(1)
    path = path_of(given, Stop(25), method="lazy", weights=weights)
    for k in range(1, len(path) + 1):
        weights_k = path.coefficients(k).numpy()
        output = given.contributions @ weights_k
        loss = ((output - given.target) ** 2).mean() / 2
        assert loss == pytest.approx(path.loss[k - 1], rel=1e-9)
        assert weights_k.sum() == pytest.approx(1.0)
        assert np.flatnonzero(weights_k).tolist() == path.support(k)


def test_line_search_never_raises_the_loss(problem) -> None:
    path = path_of(problem(2), Stop(60), method="lazy", weights="line_search")
    assert all(b <= a for a, b in zip(path.loss, path.loss[1:], strict=False))


def test_distinct_ends_before_the_pick_that_would_make_one_more(problem) -> None:
    given = problem(3)
    path = path_of(given, Stop(200, distinct=5), method="lazy")
    longer = path_of(given, Stop(len(path) + 1), method="lazy")
    assert path.num_kept == 5
    assert path.stop_reason == "distinct"
    assert longer.picks[:-1] == path.picks
    assert longer.num_kept == 6


@pytest.mark.parametrize(
    ("loss", "method"),
    [("squared", "panel"), ("squared", "lazy"), ("bce", "screened"), ("bce", "exhaustive")],
)
def test_distinct_alone_is_reached_by_new_neurons_where_picks_repeat_for_ever(
    problem, loss, method
) -> None:
    given = problem(3, loss)
    if loss == "squared":
        given.target[:] = given.contributions[:, 5]  # one neuron is the best mixture
    stop, repeats = Stop(None, distinct=17), 340
    expected, losses, _ = oracle(given.contributions, given.target, 357, loss, repeats=repeats)
    path = path_of(given, stop, method=method)
    assert (path.num_kept, path.stop_reason) == (17, "distinct")
    assert path.picks == expected[: len(path)]
    np.testing.assert_allclose(path.loss, losses[: len(path)], rtol=1e-9, atol=1e-12)
    bounded = path_of(given, Stop(repeats, distinct=17), method=method)
    assert bounded.num_kept < 17
    assert path.prefix(repeats).picks == bounded.picks
    paths, _ = search(
        lambda own: objective_of(given, own, method=method), Partition.strided(24, 3), stop
    )
    assert [found.picks for found in paths] == [path.picks] * 3
    for done in (repeats, repeats + 1, len(path) - 1):
        again = greedy(objective_of(given, method=method), stop, path=path.prefix(done))
        assert again == path


def test_under_line_search_new_neurons_that_lower_nothing_are_not_picked(problem) -> None:
    given = problem(3)
    given.target[:] = given.contributions[:, 5]
    path = path_of(given, Stop(None, distinct=23), method="lazy", weights="line_search")
    assert (path.picks, path.stop_reason) == ([5], "converged")


def test_tolerance_ends_at_the_first_loss_at_or_below(problem) -> None:
    given = problem(4)
    whole = path_of(given, Stop(50), method="lazy")
    limit = whole.loss[9]
    path = path_of(given, Stop(50, loss=limit), method="lazy")
    first = next(k for k, loss in enumerate(whole.loss) if loss <= limit)
    assert len(path) == first + 1
    assert path.stop_reason == "tolerance"


def test_without_replacement_the_candidates_run_out(problem) -> None:
    path = path_of(problem(5), Stop(100), method="panel", replacement=False)
    assert sorted(path.picks) == list(range(24))
    assert path.stop_reason == "exhausted"


def test_line_search_stops_where_nothing_lowers_the_loss() -> None:
    source = ArrayContributions(torch.eye(3, dtype=torch.float64))
    target = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    recipe = Recipe(method="panel", weights="line_search")
    path = greedy(make_objective(recipe, source, target, torch.arange(3)), Stop(10))
    assert path.picks == [0]
    assert path.stop_reason == "converged"


def test_a_zero_target_is_approached() -> None:
    rng = np.random.default_rng(6)
    source = ArrayContributions(torch.as_tensor(rng.standard_normal((20, 10))))
    objective = make_objective(
        Recipe(method="lazy"), source, torch.zeros(20, dtype=torch.float64), torch.arange(10)
    )
    path = greedy(objective, Stop(50))
    assert path.loss[-1] < path.loss[0] / 4


@pytest.mark.parametrize("method", ["panel", "lazy", "streaming", "exhaustive"])
@pytest.mark.parametrize("weights", ["uniform", "line_search"])
def test_a_search_goes_on_from_any_prefix(problem, method, weights) -> None:
    given = problem(7)
    whole = path_of(given, Stop(40), method=method, weights=weights)
    for done in (1, 13, 39):
        objective = objective_of(given, method=method, weights=weights)
        path = greedy(objective, Stop(40), path=whole.prefix(done))
        assert path.picks == whole.picks
        assert path.loss == pytest.approx(whole.loss, rel=1e-12)


@pytest.mark.parametrize("method", ["panel", "lazy", "streaming"])
def test_ranks_at_different_positions_meet_again(problem, method) -> None:
    """What happens after a fault: survivors keep their state, the newcomer has none."""
    given = problem(8)
    whole = path_of(given, Stop(40), method=method)
    partition = Partition.strided(24, 3)
    objectives = [objective_of(given, part, method=method) for part in partition.parts]
    search(lambda own: None, partition, Stop(10), objectives=objectives)
    objectives[1] = objective_of(given, partition.parts[1], method=method)
    paths, _ = search(
        lambda own: None, partition, Stop(40), path=whole.prefix(10), objectives=objectives
    )
    assert all(path.picks == whole.picks for path in paths)


def test_a_path_of_other_data_is_refused(problem) -> None:
    path = path_of(problem(9), Stop(10), method="lazy")
    other = objective_of(problem(10), method="lazy")
    with pytest.raises(InputError, match=r"path: the recorded loss of pick 1 .* has changed"):
        greedy(other, Stop(20), path=path)


def test_gaps_are_the_oracles_and_null_where_there_is_none(problem) -> None:
    from tests.oracles import greedy as oracle

    given = problem(11)
    steps = GAP_BATCH + 5
    expected = oracle(given.contributions, given.target, steps)[2]
    partition = Partition.contiguous(24, 3)
    paths, _ = search(lambda own: objective_of(given, own, method="lazy"), partition, Stop(steps))
    for path in paths:
        assert path.gap == pytest.approx(expected, rel=1e-6)
    lonely = ArrayContributions(torch.ones(4, 2, dtype=torch.float64))
    objective = make_objective(
        Recipe(method="panel"), lonely, torch.ones(4, dtype=torch.float64), torch.arange(2)
    )
    assert greedy(objective, Stop(2)).gap == [None, None]


def test_a_gap_under_screening_is_a_lower_bound(problem) -> None:
    given = problem(12, "bce")
    exact = path_of(given, Stop(20), method="exhaustive").gap
    bounds = path_of(given, Stop(20), method="screened").gap
    assert all(0 < b <= e * (1 + 1e-9) for b, e in zip(bounds, exact, strict=True))


def test_on_step_sees_every_pick_in_order(problem) -> None:
    seen = []
    greedy(objective_of(problem(13), method="lazy"), Stop(9), on_step=lambda p: seen.append(len(p)))
    assert seen == list(range(1, 10))


def test_a_nan_score_is_refused_before_it_is_reduced(problem, monkeypatch) -> None:
    objective = objective_of(problem(14), method="lazy")
    scores = objective.scores()
    scores[3] = math.nan
    monkeypatch.setattr(objective, "scores", lambda: scores)
    with pytest.raises(NonFiniteError, match="rank 0, step 1: a score is NaN"):
        greedy(objective, Stop(3))
