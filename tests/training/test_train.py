from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gfs_dist.errors import ConfigError, DataError, RunError, ShapeError
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.measure import loss_and_accuracy
from gfs_dist.training import TrainSpec, TrainState, loss_rise_warning, train

X = torch.rand(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGET = (X[:, 0] > X[:, 1]).double()
GD = TrainSpec(iterations=10, lr=1.0, checkpoint_every=4)
SGD = replace(GD, method="sgd", batch=16, momentum=0.9, seed=3)


def start() -> TwoLayer:
    return TwoLayer.initialise(8, 6, "tanh", seed=2)


def run(
    network: TwoLayer, spec: TrainSpec, loss: str = "squared", **more: Any
) -> dict[int, tuple[TwoLayer, TrainState]]:
    """Every checkpoint's network and state."""
    kept = {}

    def keep(iteration: int, network: TwoLayer, state: TrainState) -> None:
        kept[iteration] = copy.deepcopy((network, state))

    train(network, X, TARGET, loss, spec, on_checkpoint=keep, **more)
    return kept


def weights(network: TwoLayer) -> Tensor:
    return torch.cat([network.hidden.weight.flatten(), network.output.weight]).detach()


@pytest.mark.parametrize("loss", ["squared", "bce"])
def test_gradient_descent_follows_equation_5(loss: str) -> None:
    """The paper's gradient of the sum over m samples, with a step m times smaller."""
    network, m = start(), len(X)
    a, b = network.hidden.weight.detach().clone(), network.output.weight.detach().clone()
    for _ in range(10):
        hidden = torch.tanh(X @ a.T)
        f = hidden @ b / 8
        error = f - TARGET if loss == "squared" else torch.sigmoid(f) - TARGET
        gradient_b = hidden.T @ error / 8
        gradient_a = ((error[:, None] * (1 - hidden**2)) * b / 8).T @ X
        a, b = a - (1.0 / m) * gradient_a, b - (1.0 / m) * gradient_b
    run(network, GD, loss)
    torch.testing.assert_close(network.hidden.weight.detach(), a, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(network.output.weight.detach(), b, rtol=1e-12, atol=1e-14)


def test_sgd_is_that_of_torch_on_the_same_mini_batches() -> None:
    network, other = start(), start()
    optimizer = torch.optim.SGD(other.parameters(), lr=1.0, momentum=0.9)
    for iteration in range(10):
        generator = torch.Generator().manual_seed(3 * 1_000_003 + iteration // 4)
        rows = torch.randperm(50, generator=generator)[16 * (iteration % 4) :][:16]
        optimizer.zero_grad()
        (functional.mse_loss(other(X[rows]), TARGET[rows]) / 2).backward()
        optimizer.step()
    run(network, SGD)
    torch.testing.assert_close(weights(network), weights(other), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("spec", [GD, SGD, replace(SGD, momentum=0.0, seed=0)])
def test_training_goes_on_from_any_checkpoint_bit_for_bit(spec: TrainSpec) -> None:
    whole = run(start(), spec)
    assert list(whole) == [0, 4, 8, 10]
    for iteration, (network, state) in whole.items():
        assert state.iteration == iteration
        later = run(network, spec, start=state)
        assert list(later) == [i for i in whole if i > iteration]
        assert torch.equal(weights(network), weights(whole[10][0]))
        assert all(later[i][1].loss == whole[i][1].loss for i in later)


@pytest.mark.parametrize("spec", [GD, SGD])
def test_float32_stays_near_float64_and_goes_on_bit_for_bit(spec: TrainSpec) -> None:
    single = TwoLayer.initialise(8, 6, "tanh", seed=2, dtype=torch.float32)
    exact, whole = run(start(), spec), run(single, spec)
    assert weights(whole[10][0]).dtype == torch.float32
    assert {v.dtype for v in whole[8][1].velocity.values()} <= {torch.float32}
    assert 0 < (weights(whole[10][0]) - weights(exact[10][0])).abs().max() < 1e-5
    network, state = whole[4]
    later = run(network, spec, start=state)
    assert torch.equal(weights(later[10][0]), weights(whole[10][0]))


def test_two_runs_are_the_same() -> None:
    first, again = run(start(), SGD), run(start(), SGD)
    assert torch.equal(weights(first[10][0]), weights(again[10][0]))


@pytest.mark.parametrize("loss", ["squared", "bce"])
def test_checkpoints_know_the_loss_over_all_samples(loss: str) -> None:
    for spec in (GD, SGD):
        for network, state in run(start(), spec, loss).values():
            expected = loss_and_accuracy.mean_loss(network(X), TARGET, loss)
            assert state.loss == pytest.approx(expected, rel=1e-13)


def test_progress_is_told_after_each_iteration() -> None:
    seen: list[tuple[int, float]] = []
    train(start(), X, TARGET, "squared", GD, on_progress=lambda *row: seen.append(row))
    assert [iteration for iteration, _ in seen] == list(range(1, 11))
    assert seen[-1][1] < seen[0][1]


def test_no_iterations_leave_the_network_as_it_is() -> None:
    network = start()
    assert list(run(network, TrainSpec(iterations=0))) == [0]
    assert torch.equal(weights(network), weights(start()))


def test_chunks_bound_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = start(), start()
    run(whole, GD)
    monkeypatch.setattr(loss_and_accuracy, "CHUNK_ELEMENTS", 8 * 7)
    run(parts, GD)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", ["gd", "sgd"])
def test_divergence_names_iteration_and_step_size(method: str) -> None:
    network = TwoLayer.initialise(8, 6, "identity", seed=2)
    spec = TrainSpec(method=method, iterations=2000, lr=1e4)
    with pytest.raises(RunError, match=r"diverged: the loss is (nan|inf) at iteration \d+ with "):
        train(network, X, TARGET, "squared", spec)


@pytest.mark.parametrize(
    ("x", "target", "error", "message"),
    [
        (X[:0], TARGET[:0], DataError, "training: no samples"),
        (X, TARGET[:3], ShapeError, r"target: found shape \(3,\), accepted \(50,\)"),
        (X[:, :2], TARGET, ShapeError, r"x: found shape \(50, 2\), accepted \(m, 6\)"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    x: Tensor, target: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(start(), x, target, "squared", GD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "adam"}, "train.method: found 'adam', accepted gd, sgd"),
        ({"iterations": -1}, "train.iterations: found -1, accepted 0 or more"),
        ({"batch": 0}, "train.batch: found 0, accepted 1 or more"),
        ({"checkpoint_every": 0}, "train.checkpoint_every: found 0, accepted 1 or more"),
        ({"lr": 0.0}, "train.lr: found 0.0, accepted above 0"),
        ({"lr": float("nan")}, "train.lr: found nan, accepted above 0"),
        ({"method": "sgd", "momentum": 1.0}, "train.momentum: found 1.0, accepted 0 to below 1"),
        ({"momentum": 0.5}, "train.momentum: only train=sgd takes momentum"),
        ({"precision": "half"}, "train.precision: found 'half', accepted float64, float32"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainSpec(**change)


def test_a_loss_that_rises_is_told_and_noise_is_not() -> None:
    for harmless in (
        {},
        {0: 0.5},
        {0: 0.5, 9: 0.1, 20: 0.124},
        {0: 0.5, 9: 0.3, 20: 0.1, 30: 0.11},
    ):
        assert loss_rise_warning(harmless, 1.0) == ""
    assert loss_rise_warning({0: 0.5, 9: 0.1, 20: 0.126}, 3.25) == (
        "training: the loss has risen from 0.1 (iteration 9) to 0.126 (iteration 20); take a "
        "smaller train.lr than 3.25"
    )
