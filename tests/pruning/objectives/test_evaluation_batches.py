from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gfs_dist.networks.graph.record import record
from gfs_dist.pruning.objectives import evaluation_batches
from gfs_dist.pruning.objectives.evaluation_batches import (
    FEWEST_CELLS,
    MOST_CELLS,
    SAMPLE_PARTS,
    BatchSizes,
    Sampling,
    SearchCosts,
    search_costs,
)
from gfs_dist.pruning.objectives.layer_replacement import LayerReplacement
from gfs_dist.pruning.objectives.network_loss import NetworkLossProblem
from gfs_dist.selection.objective import SingleRank
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import RankShare
from tests.pruning.problems import CPU, Problem, average, make

UNIFORM = Recipe(replacement=False)
LINE_SEARCH = Recipe(weights="line_search", replacement=False)


class Counted(nn.Module):
    """Counts its samples before the layer and uses the number behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 40), nn.Linear(40, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        samples = x.size(0)
        return self.head(self.second(torch.relu(self.first(x))).view(samples, 6))


class Swapped(Counted):
    """Samples lie along the second axis, as in older sequence models."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.unflatten(1, (2, 2)).repeat(1, 1, 2).transpose(0, 1))
        return self.head(self.second(torch.relu(x)).sum(0))


@pytest.mark.parametrize("model", [Counted(), Swapped()])
def test_trials_go_one_by_one_where_samples_cannot_be_stacked(
    model: nn.Module, tmp_path: Path
) -> None:
    problem = Problem(model.double().eval(), torch.randn(6, 4).double(), torch.arange(6) % 3)
    layer = problem.layer("first")
    network = record(problem.model, problem.x)
    sizes = BatchSizes.of(LayerReplacement(network, layer), problem.x, 6, "cpu")
    assert sizes.samples == 6
    assert sizes.trials(40, 1) == 5
    search = NetworkLossProblem(problem.workspace(tmp_path), layer, UNIFORM, Sampling())
    found = search.objective(RankShare.whole(40), CPU, lambda: None)
    found.join(SingleRank())
    scores = found.scores()
    expected = [problem.loss(layer, average([i], 40)) for i in range(40)]
    torch.testing.assert_close(scores.tolist(), expected, rtol=1e-9, atol=0.0)


def test_batches_are_bounded_by_the_memory_of_their_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = make("ResNet18", dtype=torch.float32)
    network = record(problem.model, problem.x)
    deep, wide = (
        LayerReplacement(network, problem.layer(f"blocks.{block}.conv1")) for block in (2, 0)
    )
    # At the worst moment 8 x 8 pixels of 8 channels are held 3 times behind blocks.0.conv2 (its
    # norm's result, the shortcut, their sum), and once more with what a step reads.
    size = 8 * 8 * 8 * 4
    assert 3 * size <= wide.bytes_needed(problem.x[:2]).trial <= 4 * size
    assert deep.bytes_needed(problem.x[:2]).trial < wide.bytes_needed(problem.x[:2]).trial
    monkeypatch.setitem(evaluation_batches.BATCH_BYTES, "cpu", 10 * size)
    sizes = BatchSizes.of(wide, problem.x, 1_000, "cpu")
    assert sizes.samples * wide.bytes_needed(problem.x[:2]).network <= 10 * size
    assert sizes.samples < 1_000 / SAMPLE_PARTS
    assert sizes.trials(1_000, 1) == sizes.most < 1_000 / MOST_CELLS
    assert sizes.least > sizes.most


def test_chunks_and_batches_are_worth_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make("ResNet18", dtype=torch.float32)
    layer = LayerReplacement(record(problem.model, problem.x), problem.layer("blocks.0.conv1"))
    trial = layer.bytes_needed(problem.x[:2]).trial
    for least_samples, expected in ((1, 4), (3, 4), (7, 7), (1_000, 32)):
        monkeypatch.setitem(evaluation_batches.LEAST_TRIAL, "cpu", least_samples * trial)
        monkeypatch.setitem(evaluation_batches.LEAST_BATCH, "cpu", 5 * expected * trial)
        sizes = BatchSizes.of(layer, problem.x, 32, "cpu")
        assert (sizes.samples, sizes.least) == (expected, 5)


@pytest.mark.parametrize("chunks", [1, 3, 8, 100])
@pytest.mark.parametrize("candidates", [1, 7, 16, 50, 64, 512])
def test_batches_leave_no_more_empty_than_one_place_each(candidates: int, chunks: int) -> None:
    for least, cells in ((1, MOST_CELLS), (1_000, FEWEST_CELLS)):
        size = BatchSizes(1, least, 1_000).trials(candidates, chunks)
        batches = -(-candidates // size)
        assert batches * size < candidates + max(1, cells / chunks)
        assert size == 1 or batches * chunks > cells / 2
    assert BatchSizes(1, 1, 3).trials(candidates, chunks) <= 3


def test_costs_are_counted_step_by_step() -> None:
    problem = make("plain CNN", dtype=torch.float32)
    network, layer = record(problem.model, problem.x), problem.layer("6")

    def costs(recipe: Recipe, **options: int) -> SearchCosts:
        return search_costs(network, layer, problem.x, 9, 10, recipe, Sampling(batch=4, **options))

    uniform = costs(UNIFORM)
    assert uniform.losses == sum(range(1, 11))
    # One candidate of the last linear layer (10 to 5) is 5 multiply-adds; each step runs it twice.
    assert uniform.macs == 4 * (55 * 5 + 10 * 2 * 50)
    assert costs(LINE_SEARCH).losses == 10 + 3 * 45
    assert costs(UNIFORM, candidates=3).losses == 8 * 3 + 2 + 1
    assert costs(Recipe(replacement=True)).losses == 100
    assert uniform.memory_bytes >= 2 * evaluation_batches.BATCH_BYTES["cpu"]


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
