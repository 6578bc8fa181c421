from __future__ import annotations

from pathlib import Path as FilePath

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gfs_dist.errors import InputError, NonFiniteError
from gfs_dist.files.checkpoint import write_tensors
from gfs_dist.networks.graph.record import record
from gfs_dist.pruning.objectives.fisher import DerivativesTask, FisherProblem, gate_derivatives
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.stop import Stop
from tests import oracles
from tests.pruning.problems import CPU, MAKERS, Problem, make
from tests.selection.ranks import search


def derivatives(problem: Problem, batch: int = 10) -> dict[str, Tensor]:
    network = record(problem.model, problem.x[:2])
    batches = zip(problem.x.split(batch), problem.labels.split(batch), strict=True)
    return gate_derivatives(network, problem.structure, batches)


@pytest.mark.parametrize("name", MAKERS)
def test_derivatives_are_finite_differences_of_each_samples_loss(name: str) -> None:
    problem = make(name, samples=4)
    found = derivatives(problem)
    assert list(found) == [layer.name for layer in problem.structure.layers]
    step = 1e-5
    layers = problem.structure.layers
    for layer in layers[:: 1 + len(layers) // 5]:
        n = layer.num_candidates
        assert found[layer.name].shape == (4, n)
        for candidate in {n // 2, n - 1}:
            ends = []
            for sign in (1, -1):
                factors = torch.ones(n, dtype=torch.float64)
                factors[candidate] += sign * step
                ends.append(problem.losses(layer, factors))
            expected = (ends[0] - ends[1]) / (2 * step)
            torch.testing.assert_close(
                found[layer.name][:, candidate].double(), expected, rtol=1e-5, atol=1e-7
            )


def test_derivatives_do_not_depend_on_threads_and_hardly_on_batches() -> None:
    problem = make("MobileNetV2", dtype=torch.float32)
    threads = torch.get_num_threads()
    whole = derivatives(problem)
    by_threads = {}
    for count in (1, 3):
        torch.set_num_threads(count)
        by_threads[count] = derivatives(problem, batch=4)
    torch.set_num_threads(threads)
    for name, expected in by_threads[1].items():
        assert torch.equal(expected, by_threads[3][name])
        torch.testing.assert_close(expected, whole[name], rtol=1e-3, atol=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    problem = make("plain CNN")
    network = record(problem.model, problem.x[:2])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gate_derivatives(network, problem.structure, [(problem.x, problem.labels)])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_parts_are_the_derivatives_of_all_samples(tmp_path: FilePath) -> None:
    problem = make("plain CNN", samples=10)
    workspace = problem.workspace(tmp_path)
    task = DerivativesTask(workspace, problem.structure)
    ticks: list[int] = []
    parts = range(len(workspace.parts()))
    files = [load_file(task.run(part, CPU, lambda: ticks.append(1))) for part in parts]
    assert len(ticks) == workspace.num_chunks
    for name, expected in derivatives(problem).items():
        joined = torch.cat([file[name] for file in files])
        torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weights", ["uniform", "line_search"])
@pytest.mark.parametrize("replacement", [True, False])
def test_a_search_is_the_squared_one_on_scaled_derivatives(
    weights: str, replacement: bool, tmp_path: FilePath
) -> None:
    problem = make("ResNet18", dtype=torch.float32)
    found = derivatives(problem)
    file = tmp_path / "derivatives.safetensors"
    write_tensors(file, found)
    layer = problem.structure.layers[0]
    n, steps = layer.num_candidates, 6
    recipe = Recipe(method="panel", weights=weights, replacement=replacement)
    fisher = FisherProblem(layer.name, n, (str(file),), recipe)
    columns = found[layer.name].double()
    picks, losses, _ = oracles.greedy(
        (n * columns).numpy(), columns.sum(1).numpy(), steps, "squared", weights, replacement
    )
    for ranks in (1, 2, 3, 4):
        paths, _ = search(
            lambda own: fisher.objective(RankShare(own), CPU, lambda: None),
            Partition.strided(n, ranks),
            Stop(steps=steps),
        )
        for path in paths:
            assert path.picks == picks[: len(path)]
            assert path.loss == pytest.approx(losses[: len(path)], rel=1e-9)
            assert len(path) == steps or path.stop_reason == "converged"


def test_every_width_is_reached_without_replacement(tmp_path: FilePath) -> None:
    problem = make("DenseNet", dtype=torch.float32)
    file = tmp_path / "derivatives.safetensors"
    write_tensors(file, derivatives(problem))
    for layer in problem.structure.layers:
        n = layer.num_candidates
        fisher = FisherProblem(
            layer.name, n, (str(file),), Recipe(method="panel", replacement=False)
        )
        path = greedy(fisher.objective(RankShare.whole(n), CPU, lambda: None), Stop(steps=1000))
        assert sorted(path.picks) == list(range(n))
        # All candidates at once are the dense network, of which nothing is lost.
        assert path.loss[-1] <= 1e-12 * max(path.loss[0], 1e-12)


def test_what_has_no_derivatives_is_refused(tmp_path: FilePath) -> None:
    problem = make("plain CNN")
    workspace = problem.workspace(tmp_path)
    unlabelled = type(workspace)(workspace.folder, 10, 3, False)
    with pytest.raises(InputError, match="objective fisher needs a label for every sample"):
        DerivativesTask(unlabelled, problem.structure)
    problem.labels[7] = -1
    with pytest.raises(InputError, match="labels: found -1 at sample 7, accepted 0 to 4"):
        derivatives(problem)


def test_numbers_that_are_none_are_refused_by_layer() -> None:
    problem = make("wide", dtype=torch.float32)
    network = record(problem.model, problem.x[:2])
    nn.init.constant_(network.get_submodule("second").weight, torch.nan)
    with pytest.raises(NonFiniteError, match="layer 'first': the derivative by candidate 0 is nan"):
        gate_derivatives(network, problem.structure, [(problem.x, problem.labels)])


class Folded(nn.Module):
    """Rows of four numbers, each on its own: samples are not along the first axis of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.second(torch.relu(self.first(x.flatten(0, 1))))
        return rows.unflatten(0, (-1, 5)).mean(1)


def test_samples_are_the_first_axis() -> None:
    torch.manual_seed(0)
    problem = Problem(Folded().eval(), torch.randn(6, 5, 4), torch.randint(3, (6,)))
    with pytest.raises(InputError, match=r"layer 'second': it reads \(30, 8\) for 6 samples"):
        derivatives(problem)
