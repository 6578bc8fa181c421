"""Two-layer networks as a search problem."""

from __future__ import annotations

import pytest
import torch

from gfs_dist.networks import ACTIVATIONS, TwoLayer
from gfs_dist.pruning.objectives.two_layer import TwoLayerContributions, TwoLayerProblem
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.stop import Stop


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


def test_the_given_network_is_not_modified() -> None:
    network, x = network_and_inputs()
    network.to(torch.float32).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    TwoLayerContributions(network, x, torch.float64).tile(None, 0, 5)
    assert network.training
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])
