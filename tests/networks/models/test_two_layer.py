from __future__ import annotations

import numpy as np
import pytest
import torch

from gfs_dist.errors import ConfigError, NonFiniteError, ShapeError
from gfs_dist.networks import ACTIVATIONS, TwoLayer

PLAIN = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softplus": lambda z: np.logaddexp(z, 0),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "identity": lambda z: z,
}
X = torch.rand(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", PLAIN)
def test_output_is_the_average_of_the_neurons(activation: str) -> None:
    network = TwoLayer.initialise(9, 6, activation, seed=2)
    a, b = network.hidden.weight.detach().numpy(), network.output.weight.detach().numpy()
    expected = (b * PLAIN[activation](X.numpy() @ a.T)).mean(1)
    np.testing.assert_allclose(network(X).detach().numpy(), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_contributions_average_to_the_output(activation: str) -> None:
    network = TwoLayer.initialise(9, 6, activation)
    found = network.contributions(X, torch.arange(9))
    assert found.shape == (9, 30)
    torch.testing.assert_close(found.mean(0), network(X).detach(), rtol=1e-12, atol=1e-14)
    some = network.contributions(X, torch.tensor([7, 2, 7]))
    torch.testing.assert_close(some, found[[7, 2, 7]], rtol=1e-12, atol=1e-14)


def test_contributions_are_float64_of_float32_networks_too() -> None:
    network = TwoLayer.initialise(5, 6, dtype=torch.float32)
    wide = TwoLayer(5, 6)
    wide.load_state_dict(network.state_dict())
    found = network.contributions(X.float(), torch.arange(5))
    assert found.dtype == torch.float64
    assert torch.equal(found, wide.contributions(X.float().double(), torch.arange(5)))


def test_state_dict_has_the_names_of_the_interface() -> None:
    shapes = {name: tuple(t.shape) for name, t in TwoLayer(9, 6).state_dict().items()}
    assert shapes == {"hidden.weight": (9, 6), "output.weight": (9,)}


def test_initial_weights_depend_on_the_seed_and_scale_with_the_inputs() -> None:
    first, again, other = (TwoLayer.initialise(2000, 64, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.hidden.weight, again.hidden.weight)
    assert not torch.equal(first.hidden.weight, other.hidden.weight)
    assert first.hidden.weight.std().item() == pytest.approx(4 / 8, rel=0.02)
    assert first.output.weight.std().item() == pytest.approx(1, rel=0.05)
    small = TwoLayer.initialise(2000, 64, seed=1, dtype=torch.float32)
    assert torch.equal(small.hidden.weight, first.hidden.weight.float())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_shrunk_network_computes_the_weighted_sum(activation: str) -> None:
    network = TwoLayer.initialise(9, 6, activation)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    coefficients = torch.tensor([0, 0.5, 0, 0, 0.125, 0.375, 0, 0, 0], dtype=torch.float64)
    small = network.shrink(coefficients)
    assert (small.width, small.features, small.activation) == (3, 6, activation)
    expected = coefficients @ network.contributions(X, torch.arange(9))
    torch.testing.assert_close(small(X).detach(), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(small.hidden.weight, network.hidden.weight[[1, 4, 5]])
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    small.hidden.weight.data.zero_()
    assert network.hidden.weight[1].abs().sum() > 0


def test_coefficients_that_do_not_fit_are_refused() -> None:
    network = TwoLayer.initialise(3, 6)
    with pytest.raises(ShapeError, match=r"coefficients: found shape \(2,\), accepted \(3,\)"):
        network.shrink(torch.ones(2))
    with pytest.raises(ShapeError, match="coefficients: all are zero"):
        network.shrink(torch.zeros(3))
    with pytest.raises(NonFiniteError, match="coefficients: neuron 1 is nan"):
        network.shrink(torch.tensor([1, float("nan"), 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 6, "tanh"), "model.width: found 0, accepted 1 or more"),
        ((6, 0, "tanh"), "model.features: found 0, accepted 1 or more"),
        ((6, 6, "than"), "model.activation: found 'than', accepted tanh, relu"),
    ],
)
def test_networks_that_cannot_be_are_refused(arguments: tuple[int, int, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TwoLayer(*arguments)


@pytest.mark.parametrize("x", [torch.ones(3, 5), torch.ones(6), torch.ones(1, 2, 6)])
def test_inputs_that_do_not_fit_are_refused(x: torch.Tensor) -> None:
    network = TwoLayer(4, 6)
    with pytest.raises(ShapeError, match=r"x: found shape \(.*\), accepted \(m, 6\)"):
        network(x)
    with pytest.raises(ShapeError, match=r"x: found shape"):
        network.contributions(x, torch.arange(2))
