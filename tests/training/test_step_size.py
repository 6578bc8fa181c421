"""The measured step size: against autograd's Jacobian, and against what training does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gfs_dist import data
from gfs_dist.errors import DataError
from gfs_dist.networks import TwoLayer, accuracy, outputs
from gfs_dist.networks.models.two_layer import ACTIVATIONS
from gfs_dist.training import TrainSpec, default_lr, train
from gfs_dist.training.train import tangent_kernel

DIGITS = data.load(data.DataSpec())
FEW = data.load(data.DataSpec(samples=20))


def kernel_by_autograd(network: TwoLayer, x: Tensor) -> Tensor:
    parameters = dict(network.named_parameters())

    def output(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(network, parameters, (x,))

    jacobians = torch.func.jacrev(output)(parameters)
    flat = torch.cat([jacobian.reshape(len(x), -1) for jacobian in jacobians.values()], dim=1)
    return (flat @ flat.T).detach()


def curvature(network: TwoLayer, x: Tensor) -> float:
    return float(torch.linalg.eigvalsh(kernel_by_autograd(network, x))[-1]) / len(x)


def losses(network: TwoLayer, x: Tensor, target: Tensor, spec: TrainSpec) -> list[float]:
    told: list[float] = []
    train(
        network, x, target, "squared", spec,
        on_checkpoint=lambda *row: told.append(row[2].loss),
    )  # fmt: skip
    return told


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_the_kernel_is_that_of_autograd(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = TwoLayer.initialise(30, 64, activation, seed=3)
    x = DIGITS.x_train[:25]
    expected = kernel_by_autograd(network, x)
    torch.testing.assert_close(tangent_kernel(network, x), expected, rtol=1e-11, atol=1e-15)
    monkeypatch.setattr("gfs_dist.networks.measure.loss_and_accuracy.CHUNK_ELEMENTS", 25 * 7)
    torch.testing.assert_close(tangent_kernel(network, x), expected, rtol=1e-11, atol=1e-15)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(("loss", "bend"), [("squared", 1.0), ("bce", 0.25)])
def test_the_default_is_one_over_the_curvature(loss: str, bend: float) -> None:
    network = TwoLayer.initialise(1000, 64, "tanh")
    top = bend * curvature(network, FEW.x_train)
    assert default_lr(network, FEW.x_train, loss, TrainSpec()) == pytest.approx(1 / top)
    half = default_lr(network, FEW.x_train, loss, TrainSpec(), 0.5)
    assert half == pytest.approx(0.5 / top)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_mini_batch_bends_more_and_momentum_adds_steps_up(momentum: float) -> None:
    network = TwoLayer.initialise(50, 64, "relu")
    kernel = kernel_by_autograd(network, FEW.x_train)
    top, most = float(torch.linalg.eigvalsh(kernel)[-1]) / 20, float(kernel.diagonal().max())
    for batch, bend in ((1, most), (5, (4 * top + most) / 5), (128, (19 * top + most) / 20)):
        spec = TrainSpec(method="sgd", batch=batch, momentum=momentum)
        found = default_lr(network, FEW.x_train, "squared", spec)
        assert found == pytest.approx((1 - momentum) / bend)


def test_of_many_samples_some_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    network = TwoLayer.initialise(200, 64, "tanh")
    found = default_lr(network, DIGITS.x_train, "squared", TrainSpec())
    monkeypatch.setitem(default_lr.__globals__, "SAMPLES", 10_000)
    assert found == pytest.approx(
        default_lr(network, DIGITS.x_train, "squared", TrainSpec()), rel=0.01
    )


def test_steps_below_twice_the_measured_one_are_stable_and_above_are_not() -> None:
    target = data.target(FEW.labels_train, "squared")

    def last_loss(share: float) -> float:
        network = TwoLayer.initialise(1000, 64, "tanh")
        lr = share / curvature(network, FEW.x_train)
        return losses(network, FEW.x_train, target, TrainSpec(lr=lr, iterations=60))[-1]

    assert last_loss(1.0) < last_loss(0.5) < 0.1
    assert last_loss(6.0) > 10  # the share 1 of N^2 / beta^2


def test_inputs_that_no_weight_acts_on_are_refused() -> None:
    network = TwoLayer.initialise(5, 64, "tanh")
    with pytest.raises(DataError, match="train.lr: cannot be measured"):
        default_lr(network, torch.zeros(9, 64), "squared", TrainSpec())


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("loss", ["squared", "bce"])
@pytest.mark.parametrize(
    "method", [{}, {"method": "sgd"}, {"method": "sgd", "momentum": 0.9}], ids=str
)
def test_defaults_train_digits(activation: str, loss: str, method: dict[str, Any]) -> None:
    network = TwoLayer.initialise(100, 64, activation)
    target = data.target(DIGITS.labels_train, loss)
    seen: list[float] = []
    train(
        network, DIGITS.x_train, target, loss, TrainSpec(iterations=150, **method),
        on_checkpoint=lambda *row: seen.append(row[2].loss),
    )  # fmt: skip
    least = 0.82 if activation == "identity" else 0.92
    assert accuracy(outputs(network, DIGITS.x_train), target) > least
    assert seen[-1] < 0.5 * seen[0]
