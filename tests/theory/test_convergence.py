"""Theorem 7 by the tangent kernel, against exact descent and real training."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch

from gfs_dist.data import DataSpec, load, target
from gfs_dist.errors import InputError, NonFiniteError, ShapeError
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.models.two_layer import ACTIVATIONS
from gfs_dist.theory import initial_spectrum, kernel_rate
from gfs_dist.training import TrainSpec, tangent_kernel, train


def gram(seed: int, m: int = 6) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((m, 2 * m))
    return factor @ factor.T


def digits(m: int) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = load(DataSpec(name="digits", samples=m))
    return dataset.x_train, target(dataset.labels_train, "squared")


def losses(network: TwoLayer, x: torch.Tensor, y: torch.Tensor, lr: float, t: int) -> list[float]:
    found: list[float] = []
    spec = TrainSpec(iterations=t, lr=lr, checkpoint_every=t)
    train(network, x, y, "squared", spec, on_progress=lambda _, loss: found.append(loss))
    return found


def test_a_kernel_worked_by_hand() -> None:
    rate = kernel_rate(np.diag([0.5, 4.0]))
    assert (rate.smallest, rate.largest, rate.num_samples) == (0.5, 4.0, 2)
    assert (rate.rate, rate.stable_step) == (1.0, 0.5)
    # eta = lr / 2 = 0.25: the residuals shrink by 1 - 0.125 and by 0.
    assert rate.losses([0, 1, 2], 3.0, 0.5) == pytest.approx(3 * 0.875 ** np.array([0, 2, 4]))
    assert list(rate.losses([0, 1], 3.0, 1.1)) == [3.0, math.inf]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_descent_with_a_fixed_kernel_is_at_least_as_fast(seed: int, share: float) -> None:
    kernel = gram(seed)
    rate, residual = kernel_rate(kernel), np.random.default_rng(seed).standard_normal(6)
    step, start = share * rate.stable_step, float(residual @ residual) / 12
    for t in range(1, 40):
        residual = residual - step * kernel @ residual
        assert residual @ residual / 12 <= rate.losses(t, start, 6 * step) * (1 + 1e-12)
    if share == 0.1:
        assert residual @ residual / 12 <= start * math.exp(-rate.rate * step * 39)


@pytest.mark.parametrize("m", [10, 20])
def test_training_has_the_predicted_rate_within_a_third(m: int) -> None:
    x, y = digits(m)
    network = TwoLayer.initialise(1000, x.shape[1], "tanh")
    rate = kernel_rate(tangent_kernel(network, x))
    lr = 0.5 * m * rate.stable_step
    found = [loss for loss in losses(network, x, y, lr, 600) if loss > 1e-20]
    half, last = len(found) // 2, len(found) - 1
    measured = math.log(found[half] / found[last]) / (last - half) * m / lr
    assert measured == pytest.approx(rate.rate, rel=1 / 3)


def test_the_kernel_of_both_layers_tells_stable_steps_and_that_of_the_output_layer_not() -> None:
    x, y = digits(20)
    network = TwoLayer.initialise(1000, x.shape[1], "tanh")
    rate = kernel_rate(tangent_kernel(network, x))
    hidden = ACTIVATIONS["tanh"](x @ network.hidden.weight.detach().T)
    output_layer_alone = 20 * 1000**2 / initial_spectrum(hidden).largest ** 2
    found = losses(copy.deepcopy(network), x, y, 0.25 * 20 * rate.stable_step, 30)
    assert all(later < earlier for earlier, later in itertools.pairwise(found))
    assert output_layer_alone > 2.5 * 20 * rate.stable_step
    assert losses(network, x, y, output_layer_alone, 20)[-1] > 10


@pytest.mark.parametrize("seed", range(3))
def test_both_layers_are_at_least_as_fast_as_the_output_layer(seed: int) -> None:
    x, _ = digits(15)
    network = TwoLayer.initialise(300, x.shape[1], "tanh", seed)
    hidden = ACTIVATIONS["tanh"](x @ network.hidden.weight.detach().T)
    spectrum = initial_spectrum(hidden)
    constant = kernel_rate(tangent_kernel(network, x)).rate_constant(spectrum)
    assert constant >= 2
    alone = kernel_rate(hidden @ hidden.T / 300**2)
    assert alone.rate_constant(spectrum) == pytest.approx(2)


def test_directions_that_no_weight_moves_have_no_rate() -> None:
    factor = np.random.default_rng(0).standard_normal((5, 3))
    rate = kernel_rate(factor @ factor.T)
    assert rate.rate == 0.0
    assert kernel_rate(np.zeros((2, 2))).stable_step == math.inf
    assert math.isnan(rate.rate_constant(initial_spectrum(factor)))


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"kernel: found shape \(2, 3\), accepted \(samples, sam"):
        kernel_rate(np.ones((2, 3)))
    with pytest.raises(NonFiniteError, match="kernel: found NaN or infinity"):
        kernel_rate(np.full((2, 2), np.nan))
    with pytest.raises(InputError, match=r"lr: found 0\.0, accepted a finite number above 0"):
        kernel_rate(np.eye(2)).losses(1, 1.0, 0.0)
