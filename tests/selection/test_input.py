"""What is refused, and the shape of small pieces: path, partition, stop rules, weights, method."""

from __future__ import annotations

import hashlib

import pytest
import torch

from gfs_dist.errors import InputError, NonFiniteError, ShapeError
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective, moments_objective, settle
from gfs_dist.selection.partition import Partition, make_partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.step_sizes import NO_DECISION, decode, encode
from gfs_dist.selection.stop import Stop

ALL = [("squared", m) for m in ("panel", "lazy", "streaming", "exhaustive")] + [
    ("bce", m) for m in ("screened", "exhaustive")
]


def build(contributions: torch.Tensor, target: torch.Tensor, **recipe: str) -> None:
    source = ArrayContributions(contributions)
    make_objective(Recipe(**recipe), source, target, torch.arange(source.num_candidates))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("loss", "method"), ALL)
def test_bad_contributions_are_refused_by_neuron_and_sample(loss, method, value) -> None:
    contributions = torch.rand(9000, 4, dtype=torch.float64)
    contributions[8500, 2] = value
    with pytest.raises(NonFiniteError, match=r"contributions: neuron 2, sample 8500 holds"):
        build(contributions, torch.ones(9000), loss=loss, method=method)


def test_the_neuron_named_is_the_global_one() -> None:
    contributions = torch.rand(50, 8, dtype=torch.float64)
    contributions[7, 5] = torch.nan
    source = ArrayContributions(contributions)
    with pytest.raises(NonFiniteError, match="neuron 5, sample 7"):
        make_objective(Recipe(method="lazy"), source, torch.ones(50), torch.tensor([1, 3, 5, 7]))


def test_a_square_that_overflows_is_refused() -> None:
    contributions = torch.full((3, 2), 1e200, dtype=torch.float64)
    with pytest.raises(NonFiniteError, match=r"neuron 0 holds 1e\+200, whose square overflows"):
        build(contributions, torch.ones(3), method="lazy")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_targets_are_refused_by_sample(value) -> None:
    target = torch.ones(5)
    target[3] = value
    with pytest.raises(NonFiniteError, match="target: sample 3 holds"):
        build(torch.rand(5, 2), target, method="lazy")


def test_a_target_whose_square_overflows_is_refused() -> None:
    with pytest.raises(NonFiniteError, match=r"target: sample 2 holds 1e\+200, whose square"):
        build(
            torch.rand(4, 2), torch.tensor([1.0, 0, 1e200, 0], dtype=torch.float64), method="lazy"
        )


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"contributions: found shape \(5,\), accepted"):
        ArrayContributions(torch.rand(5))
    with pytest.raises(ShapeError, match=r"contributions: found shape \(5, 0\), accepted"):
        ArrayContributions(torch.rand(5, 0))
    with pytest.raises(ShapeError, match=r"target: found shape \(4,\), accepted \(5,\)"):
        build(torch.rand(5, 2), torch.ones(4), method="lazy")
    with pytest.raises(ShapeError, match=r"target: found shape \(5,\), accepted \(5, 3\)"):
        build(torch.rand(5, 2, 3), torch.ones(5), method="lazy")
    with pytest.raises(ShapeError, match="found 3 outputs, accepted 1 for bce"):
        build(torch.rand(5, 2, 3), torch.ones(5, 3), loss="bce", method="screened")
    with pytest.raises(ShapeError, match=r"target: found shape \(4,\), accepted \(5,\) class"):
        build(torch.rand(5, 2, 3), torch.zeros(4), loss="cross_entropy", method="screened")
    with pytest.raises(ShapeError, match="found 1 output, accepted 2 or more"):
        build(torch.rand(5, 2), torch.ones(5), loss="cross_entropy", method="screened")


def test_labels_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"target: sample 1 holds 2.0, accepted 0 or 1 for bce"):
        build(torch.rand(3, 2), torch.tensor([0.0, 2.0, 1.0]), loss="bce", method="screened")
    with pytest.raises(InputError, match=r"target: sample 2 holds 3.0, accepted class numbers"):
        build(torch.rand(3, 2, 3), torch.tensor([0, 1, 3]), loss="cross_entropy", method="screened")


def test_moments_that_cannot_be_are_refused() -> None:
    recipe, own, p = Recipe(), torch.arange(2), torch.zeros(2)
    with pytest.raises(ShapeError, match=r"gram: found shape \(2, 3\)"):
        moments_objective(recipe, torch.zeros(2, 3), p, 1.0, own)
    with pytest.raises(ShapeError, match=r"correlation: found shape \(3,\)"):
        moments_objective(recipe, torch.eye(2), torch.zeros(3), 1.0, own)
    with pytest.raises(ShapeError, match="gram: found a matrix that is not symmetric"):
        moments_objective(recipe, torch.tensor([[1.0, 0.5], [0.0, 1.0]]), p, 1.0, own)
    with pytest.raises(NonFiniteError, match=r"gram: entry \[0, 1\] is not finite"):
        moments_objective(recipe, torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), p, 1.0, own)
    with pytest.raises(InputError, match=r"correlation: neuron 1 has 2.0 with gram 1.0 and energy"):
        moments_objective(recipe, torch.eye(2), torch.tensor([0.0, 2.0]), 1.0, own)
    with pytest.raises(InputError, match=r"correlation: neuron 0 has 0.0 with gram -1.0"):
        moments_objective(recipe, -torch.eye(2), p, 1.0, own)
    with pytest.raises(InputError, match=r"energy: found -1.0, accepted"):
        moments_objective(recipe, torch.eye(2), p, -1.0, own)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"loss": "hinge"}, "loss: found 'hinge', accepted squared, bce, cross_entropy"),
        ({"weights": "even"}, "weights: found 'even', accepted uniform, line_search"),
        ({"method": "screened"}, "method: found 'screened', accepted auto, panel, lazy"),
        ({"loss": "bce", "method": "panel"}, "method: found 'panel', accepted auto, screened"),
    ],
)
def test_unknown_words_are_refused(words, message) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**words)


def test_stop_rules_are_checked() -> None:
    with pytest.raises(InputError, match="steps: found 0, accepted 1 or more"):
        Stop(0).check(5)
    with pytest.raises(InputError, match=r"steps: found 2.5, accepted a whole number"):
        Stop(2.5).check(5)
    with pytest.raises(InputError, match=r"distinct: found 6, accepted 1 to 5"):
        Stop(9, distinct=6).check(5)
    Stop(1, distinct=5).check(5)


def test_partitions_are_disjoint_and_complete() -> None:
    for kind in ("contiguous", "strided"):
        for ranks in (1, 2, 3, 7, 12):
            partition = make_partition(kind, 7, ranks)
            assert partition.num_ranks == ranks
            assert sorted(torch.cat(partition.parts).tolist()) == list(range(7))
            for rank, part in enumerate(partition.parts):
                assert all(partition.owner(int(i)) == rank for i in part)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[0, 1], [1, 2]], "candidate 1 is named twice, accepted once each"),
        ([[0.5, 1], [2]], r"partition: found \[0.5, 1\], accepted lists of whole numbers"),
        ([["a"]], r"partition: found \['a'\], accepted lists of whole numbers"),
        ([[0, 0], [1]], "candidate 0 is named twice"),
        ([[0], [5]], "part 1 names candidate 5, accepted each of 0 to 1 once"),
        ([[-1], [0]], "part 0 names candidate -1"),
    ],
)
def test_bad_partitions_are_refused(parts, message) -> None:
    with pytest.raises(InputError, match=message):
        Partition(parts)


def test_an_unknown_partition_is_refused() -> None:
    with pytest.raises(InputError, match="partition: found 'random', accepted contiguous, strided"):
        make_partition("random", 4, 2)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_a_partition_is_shared_out_over_another_number_of_ranks(ranks) -> None:
    partition = Partition([[4, 0], [], [1, 2, 3], [5, 6]]).over(ranks)
    assert partition.num_ranks == ranks
    assert sorted(torch.cat(partition.parts).tolist()) == list(range(7))


def test_a_pick_and_its_step_size_travel_in_one_integer_that_sorts_by_pick() -> None:
    for pick in (0, 1, 5, 2**29 - 1):
        for step_size in (0.0, 2**-32, 0.3333, 1.0):
            for above in (False, True):
                code = encode(pick, step_size, above)
                assert 0 <= code < NO_DECISION
                found, units, told = decode(code)
                assert (found, told) == (pick, above)
                assert units / 2**32 == pytest.approx(step_size, abs=2**-33)
    assert encode(3, 1.0, above=True) < encode(4, 0.0)


def test_a_path_knows_its_hash_support_and_prefixes() -> None:
    path = GreedyPath(10, [7, 2, 7], [3.0, 2.0, 1.0], [1.0, 0.5, 1 / 3], [None, 0.1, None], "steps")
    assert path.sha256 == hashlib.sha256(b"7,2,7").hexdigest()
    assert path.support() == [2, 7]
    assert path.num_kept == 2
    assert path.prefix(2) == GreedyPath(10, [7, 2], [3.0, 2.0], [1.0, 0.5], [None, 0.1], "")
    assert path.coefficients(0).sum() == 0
    assert path.coefficients()[[2, 7]].tolist() == [1 / 3, 2 / 3]
    for call in (path.prefix, path.coefficients):
        with pytest.raises(ValueError, match="k: found 4, accepted 0 to 3"):
            call(4)


def test_auto_holds_what_fits() -> None:
    def chosen(samples: int, neurons: int, ranks: int, memory: float) -> str:
        source = ArrayContributions(torch.empty(samples, neurons, device="meta"))
        return settle(Recipe(), source, ranks, Stop(200), int(memory))[1]

    assert chosen(10_000, 500, 2, 1e12).startswith("lazy: ")
    assert chosen(10_000, 20_000, 2, 2e9).startswith("lazy: ")
    assert chosen(10_000, 20_000, 2, 1e8).startswith("streaming: to hold ")
    assert chosen(1_000_000, 20_000, 1, 2e9).startswith("lazy: ")  # is in memory already
    reason = chosen(1_000_000, 20_000, 2, 4e9)
    assert "streaming: to hold contributions would take 38," in reason
    assert "memory a rank" in reason
