from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gfs_dist.errors import InputError, NonFiniteError, PicksDifferError
from gfs_dist.pruning.objectives import evaluation_batches
from gfs_dist.pruning.objectives.evaluation_batches import Sampling
from gfs_dist.pruning.objectives.layer_replacement import Chunk, LayerReplacement, Trial
from gfs_dist.pruning.objectives.network_loss import NetworkLoss, NetworkLossProblem, line_search
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objective import Objective, SingleRank
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from tests.pruning.problems import CPU, MAKERS, Problem, average, make
from tests.selection.ranks import search

UNIFORM = Recipe(replacement=False)
LINE_SEARCH = Recipe(weights="line_search", replacement=False)
EVERYTHING = Sampling()


def whole(problem: NetworkLossProblem) -> NetworkLoss:
    found = problem.objective(RankShare.whole(problem.num_candidates), CPU, lambda: None)
    found.join(SingleRank())
    return found


def by_ranks(
    problem: NetworkLossProblem,
    num_ranks: int,
    stop: Stop,
    path: GreedyPath | None = None,
    objectives: list[Objective] | None = None,
) -> list[GreedyPath]:
    """A path of each rank."""
    partition = Partition.contiguous(problem.num_candidates, num_ranks)
    if objectives is None:
        objectives = [
            problem.objective(partition.share(rank), CPU, lambda: None) for rank in range(num_ranks)
        ]
    return search(None, partition, stop, path, objectives)[0]


def build(
    folder: Path,
    problem: Problem,
    layer: str,
    recipe: Recipe = UNIFORM,
    sampling: Sampling = EVERYTHING,
) -> NetworkLossProblem:
    return NetworkLossProblem(problem.workspace(folder), problem.layer(layer), recipe, sampling)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "MobileNetV2"])
def test_scores_are_the_losses_of_networks_with_scaled_consumers(name: str, tmp_path: Path) -> None:
    problem = make(name)
    workspace = problem.workspace(tmp_path)
    layers = problem.structure.layers
    for layer in layers[:: 1 + len(layers) // 4]:
        n = layer.num_candidates
        found = whole(NetworkLossProblem(workspace, layer, UNIFORM, Sampling()))
        assert found.empty_loss == pytest.approx(problem.loss(layer, [0.0] * n), rel=1e-9)
        picks: list[int] = []
        for pick in (n - 1, 0, 1):
            scores = found.scores()
            for i in {0, 1, 2, n // 2, n - 1}:
                expected = problem.loss(layer, average([*picks, i], n))
                expected = torch.inf if i in picks else expected
                assert float(scores[i]) == pytest.approx(expected, rel=1e-9, abs=1e-9)
            assert found.step_size(pick) == 1 / (len(picks) + 1)
            found.add(pick, None, found.step_size(pick), float(scores[pick]))
            picks.append(pick)


def test_all_candidates_are_the_dense_network(tmp_path: Path) -> None:
    problem = make("ResNet18")
    layer = problem.structure.layers[0]
    assert len(layer.consumers) > 2
    path = greedy(whole(build(tmp_path, problem, layer.name)), Stop(steps=100))
    assert path.stop_reason == "exhausted"
    assert sorted(path.picks) == list(range(layer.num_candidates))
    with torch.no_grad():
        dense = functional.cross_entropy(problem.model(problem.x), problem.labels)
    assert path.loss[-1] == pytest.approx(float(dense), rel=1e-9)
    for k in (1, 3, 6):
        loss = problem.loss(layer, path.coefficients(k))
        assert path.loss[k - 1] == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize(
    ("recipe", "sampling"),
    [
        (UNIFORM, EVERYTHING),
        (UNIFORM, Sampling(candidates=9, seed=3)),
        (UNIFORM, Sampling(batch=3, seed=3)),
        (LINE_SEARCH, EVERYTHING),
    ],
)
@pytest.mark.parametrize(("samples", "least_bytes"), [(2, 1), (20, 1), (20, 2**19)])
def test_any_number_of_ranks_finds_the_same_losses(
    samples: int,
    least_bytes: int,
    recipe: Recipe,
    sampling: Sampling,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(evaluation_batches.LEAST_TRIAL, "cpu", least_bytes)
    monkeypatch.setitem(evaluation_batches.LEAST_BATCH, "cpu", 8 * least_bytes)
    problem = make("wide", samples=samples, dtype=torch.float32, trained=True)
    search_for = build(tmp_path, problem, "first", recipe, sampling)
    alone = greedy(whole(search_for), Stop(steps=5))
    assert len(alone) > 3
    for num_ranks in (2, 11):
        for path in by_ranks(search_for, num_ranks, Stop(steps=5)):
            assert (path.picks, path.loss, path.step_sizes, path.gap) == (
                alone.picks, alone.loss, alone.step_sizes, alone.gap
            )  # fmt: skip


@pytest.mark.parametrize("recipe", [UNIFORM, LINE_SEARCH])
def test_ranks_that_are_ahead_go_on_with_one_that_begins(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(evaluation_batches.LEAST_TRIAL, "cpu", 1)
    problem = make("wide", samples=9, dtype=torch.float32, trained=True)
    search_for = build(tmp_path, problem, "first", recipe)
    alone = greedy(whole(search_for), Stop(steps=9))

    def new(rank: int) -> NetworkLoss:
        return search_for.objective(Partition.contiguous(40, 3).share(rank), CPU, lambda: None)

    survivors: list[Objective] = [new(rank) for rank in range(3)]
    known = by_ranks(search_for, 3, Stop(steps=4), objectives=survivors)[0]
    survivors[1].add(alone.picks[4], None, alone.step_sizes[4], alone.loss[4])
    known = alone.prefix(len(known) + 1)
    for path in by_ranks(search_for, 3, Stop(steps=9), known, [*survivors[:2], new(2)]):
        assert (path.picks, path.loss) == (alone.picks, alone.loss)


def test_a_recorded_loss_that_is_another_is_refused_by_all_ranks(tmp_path: Path) -> None:
    problem = make("plain CNN", dtype=torch.float32, trained=True)
    search_for = build(tmp_path, problem, "6")
    path = greedy(whole(search_for), Stop(steps=4))
    assert by_ranks(search_for, 2, Stop(steps=5), path)[1].picks[:4] == path.picks
    path.loss[2] *= 1 + 1e-6
    with pytest.raises(InputError, match="the recorded loss of pick 3"):
        by_ranks(search_for, 2, Stop(steps=5), path)


def test_a_rank_whose_losses_are_not_those_of_all_is_refused(tmp_path: Path) -> None:
    class Lowered(SingleRank):
        def minimum(self, values: Tensor) -> Tensor:
            return values - 1e-12 if len(values) >= 40 else values

    problem = make("wide", samples=9, dtype=torch.float32)
    found = whole(build(tmp_path, problem, "first"))
    found.join(Lowered())
    with pytest.raises(PicksDifferError, match="layer 'first', step 1: the losses that rank 0 of"):
        found.scores()


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8, 9, 40])
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (5, 7), (8, 4), (8, 1), (3, 1)])
def test_ranks_divide_a_table_evenly(num_ranks: int, rows: int, columns: int) -> None:
    shares = [*map(Partition.contiguous(rows, num_ranks).share, range(num_ranks))]
    cells = [share.cells(rows * columns) for share in shares]
    assert [cell for own in cells for cell in own] == [*range(rows * columns)]
    assert max(map(len, cells)) - min(map(len, cells)) <= 1
    for rank, own in enumerate(cells):
        touched = shares[rank].rows(rows)
        assert {cell // columns for cell in own} <= set(touched)
        assert len(touched) <= -(-rows // num_ranks) + 1


def test_a_rank_runs_the_samples_of_its_cells_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    enter = LayerReplacement.enter

    def count(self: LayerReplacement, x: Tensor, labels: Tensor) -> Chunk:
        seen.append(len(x))
        return enter(self, x, labels)

    monkeypatch.setattr(LayerReplacement, "enter", count)
    monkeypatch.setitem(evaluation_batches.LEAST_TRIAL, "cpu", 1)
    problem = make("wide", samples=16, dtype=torch.float32)
    search_for = build(tmp_path, problem, "first")
    for num_ranks, samples in ((1, 16), (2, 8), (3, 6), (8, 2), (16, 2)):
        seen.clear()
        search_for.objective(Partition.contiguous(40, num_ranks).share(0), CPU, lambda: None)
        assert sum(seen) == samples


def test_a_candidate_keeps_its_bits_whatever_is_computed_beside_it(tmp_path: Path) -> None:
    """Rows at the end of a vectorised SiLU round differently: places are part of the rule."""
    problem = make("wide", samples=5, dtype=torch.float32)
    search_for = build(tmp_path, problem, "first")
    everything = whole(search_for)
    scores = everything.scores()
    for candidate in range(40):
        assert float(scores[candidate]) == everything.score(candidate)


def test_a_search_computes_little_besides_its_candidates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where few samples and steps are asked for, set-up must not be most of the work."""
    computed = []
    logits = LayerReplacement.logits

    def count(
        self: LayerReplacement, chunk: Chunk, coefficients: Tensor, trials: Sequence[Trial]
    ) -> Tensor:
        computed.append(len(trials))
        return logits(self, chunk, coefficients, trials)

    monkeypatch.setattr(LayerReplacement, "logits", count)
    problem = make("wide", samples=5)
    found = whole(build(tmp_path, problem, "first", sampling=Sampling(candidates=16)))
    assert sum(computed) == 5  # outputs without the layer, two trials alone and together
    computed.clear()
    found.scores()
    assert computed == [2] * 8


@pytest.mark.parametrize(
    ("recipe", "sampling"),
    [
        (UNIFORM, EVERYTHING),
        (UNIFORM, Sampling(batch=6)),
        (UNIFORM, Sampling(candidates=5)),
        (LINE_SEARCH, EVERYTHING),
    ],
)
def test_a_path_is_replayed_and_continued(
    recipe: Recipe, sampling: Sampling, tmp_path: Path
) -> None:
    problem = make("plain CNN", dtype=torch.float32, trained=True)
    search_for = build(tmp_path, problem, "6", recipe, sampling)
    path = greedy(whole(search_for), Stop(steps=8))
    again = greedy(whole(search_for), Stop(steps=8), path=path.prefix(3))
    assert (again.picks, again.loss) == (path.picks, path.loss)
    changed = path.prefix(3)
    changed.loss[1] *= 1 + 1e-6
    with pytest.raises(InputError, match="the recorded loss of pick 2"):
        greedy(whole(search_for), Stop(steps=8), path=changed)


def test_losses_are_those_of_a_mini_batch_drawn_from_the_seed(tmp_path: Path) -> None:
    problem, sampling = make("plain CNN", samples=12), Sampling(batch=5, seed=7)
    layer, rows = problem.layer("3"), sampling.rows(12)
    assert len(rows) == 5
    assert not torch.equal(rows, Sampling(batch=5, seed=8).rows(12))
    assert torch.equal(Sampling(batch=40).rows(12), torch.arange(12))
    path = greedy(whole(build(tmp_path, problem, "3", sampling=sampling)), Stop(steps=4))
    for k in range(1, 5):
        factors = layer.num_candidates * path.coefficients(k)
        expected = problem.losses(layer, factors)[rows].mean()
        assert path.loss[k - 1] == pytest.approx(float(expected), rel=1e-9)


def test_only_drawn_candidates_are_scored(tmp_path: Path) -> None:
    problem = make("plain CNN")
    few = Sampling(candidates=3, seed=5)
    found = whole(build(tmp_path, problem, "6", sampling=few))
    every = whole(build(tmp_path / "every", problem, "6"))
    draws = set()
    for _ in range(10):
        scores, all_scores = found.scores(), every.scores()
        drawn = scores.isfinite()
        left = 10 - found.position
        assert drawn.sum() == min(3, left)
        torch.testing.assert_close(scores[drawn], all_scores[drawn], rtol=1e-9, atol=0.0)
        draws.add(tuple(drawn.tolist()))
        pick = int(scores.argmin())
        for objective in (found, every):
            objective.add(pick, None, 1 / (objective.position + 1), float(scores[pick]))
    assert len(draws) > 5
    assert sorted(greedy(whole(build(tmp_path / "path", problem, "6")), Stop()).picks) == [
        *range(10)
    ]


def test_replacement_lets_a_channel_be_picked_again(tmp_path: Path) -> None:
    problem = make("plain CNN")
    recipe = Recipe(replacement=True)
    path = greedy(whole(build(tmp_path, problem, "0", recipe)), Stop(steps=20))
    assert len(path) == 20
    assert path.num_kept < 20
    layer = problem.layer("0")
    assert path.loss[-1] == pytest.approx(problem.loss(layer, path.coefficients()), rel=1e-9)


def test_line_search_never_raises_the_loss_and_says_its_steps(tmp_path: Path) -> None:
    problem = make("plain CNN", trained=True)
    layer = problem.layer("6")
    path = greedy(whole(build(tmp_path, problem, "6", LINE_SEARCH)), Stop(steps=10))
    assert len(path) > 3
    assert path.step_sizes[0] == 1.0
    assert path.loss == sorted(path.loss, reverse=True)
    for k in (2, len(path)):
        expected = problem.loss(layer, path.coefficients(k))
        assert path.loss[k - 1] == pytest.approx(expected, rel=1e-8)
    uniform = greedy(whole(build(tmp_path / "u", problem, "6")), Stop(steps=2))
    assert path.loss[1] <= uniform.loss[1] * (1 + 1e-9)


def test_line_search_finds_the_vertex_of_a_parabola() -> None:
    lowest = torch.tensor([0.3, 0.05, 0.9, -1.0, 2.0, 0.0], dtype=torch.float64)
    sign = torch.tensor([1.0, 1, 1, 1, 1, -1], dtype=torch.float64)

    def losses(steps: Tensor) -> Tensor:
        return 2 + sign * ((steps - lowest).square() - lowest.square())

    found, steps = line_search(losses, 2.0, torch.full((6,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(steps.tolist(), [0.3, 0.05, 0.9, 0.0, 1.0, 1.0], atol=1e-9, rtol=0)
    torch.testing.assert_close(found, losses(steps))


def test_equal_candidates_go_to_the_lowest_number(tmp_path: Path) -> None:
    """In float64: float32 sums differ in last bits, above the tie, by their place in a batch."""
    problem = make("wide")
    with torch.no_grad():
        for module, axis in ((problem.model.first, 0), (problem.model.second, 1)):
            module.weight[(slice(None),) * axis + (slice(1, None),)] = module.weight.select(
                axis, 0
            ).unsqueeze(axis)
        problem.model.first.bias[1:] = problem.model.first.bias[0]
    path = greedy(whole(build(tmp_path, problem, "first")), Stop(steps=3))
    assert path.picks == [0, 1, 2]


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    problem = make("plain CNN")
    with pytest.raises(InputError, match="which 3 drawn candidates cannot tell"):
        build(tmp_path / "d", problem, "0", LINE_SEARCH, Sampling(candidates=3))
    with pytest.raises(InputError, match="candidates: found 0, accepted 1 or more"):
        Sampling(candidates=0)
    unlabelled = problem.workspace(tmp_path / "b")
    unlabelled = type(unlabelled)(unlabelled.folder, 10, 3, False)
    with pytest.raises(InputError, match="network_loss needs a label for every sample"):
        NetworkLossProblem(unlabelled, problem.layer("0"), UNIFORM, Sampling())
    problem.labels[7] = 5
    with pytest.raises(InputError, match="found label 5 at sample 7 for 5 outputs, accepted"):
        whole(build(tmp_path / "c", problem, "0"))


def test_numbers_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    problem = make("wide", dtype=torch.float32)
    torch.nn.init.constant_(problem.model.second.weight[:, 3:4], 1e38)
    with pytest.raises(NonFiniteError, match="layer 'first': the loss with candidate 3 as pick 1"):
        whole(build(tmp_path, problem, "first")).scores()
    torch.nn.init.constant_(problem.model.head.bias, torch.inf)
    with pytest.raises(NonFiniteError, match="layer 'first': the outputs without it"):
        found = build(tmp_path / "b", make("wide"), "first")
        found.workspace.dense().get_submodule("head").bias.fill_(torch.inf)
        whole(found)
