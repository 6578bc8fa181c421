"""Two-layer networks as a search problem."""

from __future__ import annotations

import pytest
import torch

from gfs_dist.networks import ACTIVATIONS, TwoLayer
from gfs_dist.pruning.objectives.two_layer import TwoLayerContributions, TwoLayerProblem
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.stop import Stop
from tests.selection.ranks import search


def network_and_inputs(activation: str = "tanh") -> tuple[TwoLayer, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(90, 7, generator=generator, dtype=torch.float64)
    return TwoLayer.initialise(25, 7, activation, seed=1), x


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_the_mean_of_all_contributions_is_the_network(activation) -> None:
    network, x = network_and_inputs(activation)
    tile = TwoLayerContributions(network, x, torch.float64).tile(None, 0, 90)
    assert tile.shape == (25, 90)
    torch.testing.assert_close(tile.mean(0), network(x).detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_tile_does_not_depend_on_its_neighbours(dtype) -> None:
    network, x = network_and_inputs()
    source = TwoLayerContributions(network, x, dtype)
    whole = source.tile(None, 0, 90)
    for neurons in (torch.tensor([24, 3]), torch.tensor([7])):
        part = source.tile(neurons, 30, 61)
        assert part.dtype == dtype
        torch.testing.assert_close(part, whole[neurons, 30:61], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("method", ["panel", "lazy", "streaming", "exhaustive"])
@pytest.mark.parametrize("weights", ["uniform", "line_search"])
def test_the_smaller_network_has_the_loss_of_the_path(method, weights) -> None:
    network, x = network_and_inputs()
    target = torch.sin(3 * x[:, 0])
    problem = TwoLayerProblem(lambda: (x, target), network, Recipe("squared", method, weights))
    share = RankShare.whole(problem.num_candidates)
    path = greedy(problem.objective(share, torch.device("cpu"), lambda: None), Stop(12))
    small = network.shrink(path.coefficients())
    assert small.width == path.num_kept
    loss = float((small(x).detach() - target).square().mean()) / 2
    assert loss == pytest.approx(path.loss[-1], rel=1e-9)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("method", ["lazy", "streaming"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_any_number_of_ranks_gives_the_same_bits(activation, method, precision) -> None:
    network = TwoLayer.initialise(130, 7, activation, seed=1)
    x = torch.rand(90, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    target = torch.sin(3 * x[:, 0])
    recipe = Recipe("squared", method)
    problem = TwoLayerProblem(lambda: (x, target), network, recipe, precision)

    def build(own: torch.Tensor):
        return problem.objective(RankShare(own), torch.device("cpu"), lambda: None)

    path = greedy(build(torch.arange(130)), Stop(40))
    for partition in (Partition.contiguous(130, 2), Partition.strided(130, 3)):
        assert search(build, partition, Stop(40))[0] == [path] * partition.num_ranks
    half = path.prefix(20)
    assert search(build, Partition.strided(130, 2), Stop(40), half)[0] == [path] * 2


def test_the_given_network_is_not_modified() -> None:
    network, x = network_and_inputs()
    network.to(torch.float32).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    TwoLayerContributions(network, x, torch.float64).tile(None, 0, 5)
    assert network.training
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])
