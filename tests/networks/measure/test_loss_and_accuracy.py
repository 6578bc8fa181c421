from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.errors import ConfigError, DataError, NonFiniteError, ShapeError
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.measure import loss_and_accuracy
from tests.oracles import LOSSES

X = torch.randn(25, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(25) % 4


def batches(size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(X.split(size), Y.split(size), strict=True))


@pytest.mark.parametrize("size", [1, 7, 25])
def test_loss_and_accuracy_are_those_of_the_definition(size: int) -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.9))
    logits = network[0](X).detach().double().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = networks.classify(network, batches(size))
    assert found.loss == pytest.approx(-np.log(shares[range(25), Y.numpy()]).mean(), rel=1e-6)
    assert found.accuracy == (logits.argmax(1) == Y.numpy()).mean()


def test_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    network[2].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    networks.classify(network, batches(5))
    assert [module.training for module in network.modules()] == [True, True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_a_network_keeps_from_an_evaluation_can_be_trained_through() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)
            self.cache: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.cache is None:
                self.cache = torch.arange(6) / 6
            return self.linear(x * self.cache)

    network = Caching()
    networks.classify(network, batches(5))
    network(X).sum().backward()
    assert network.linear.weight.grad is not None


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (nn.Linear(6, 3), DataError, r"found 3 at sample 3, accepted 0 to 2 \(the network has 3 o"),
        (nn.Unflatten(1, (2, 3)), ShapeError, r"outputs: found \(5, 2, 3\), accepted \(5, classes"),
        (nn.Flatten(0), ShapeError, r"outputs: found \(30,\), accepted \(5, classes\)"),
    ],
)
def test_outputs_and_labels_that_do_not_fit_are_refused(
    network: nn.Module, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        networks.classify(network, batches(5))


def test_a_negative_label_is_refused() -> None:
    labels = Y.clone()
    labels[8] = -1
    with pytest.raises(DataError, match="labels: found -1 at sample 8, accepted 0 to 3"):
        networks.classify(nn.Linear(6, 4), zip(X.split(5), labels.split(5), strict=True))


def test_several_outputs_are_refused_by_their_type() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ShapeError, match=r"outputs: found tuple, accepted \(5, classes\)"):
        networks.classify(Pair(), batches(5))


def test_inputs_that_are_not_finite_are_refused() -> None:
    x = X.clone()
    x[12, 3] = float("nan")
    with pytest.raises(NonFiniteError, match="inputs: NaN or infinity at sample 12"):
        networks.classify(nn.Linear(6, 4), zip(x.split(5), Y.split(5), strict=True))


@pytest.mark.parametrize(("scale", "layer"), [(1e30, "inner.1"), (float("nan"), "inner.0")])
def test_the_layer_after_which_numbers_are_lost_is_named(scale: float, layer: str) -> None:
    network = nn.Sequential()
    network.add_module("inner", nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5)))
    network.add_module("last", nn.Linear(5, 4))
    with torch.no_grad():
        for module in network.inner:
            module.weight.fill_(scale)
    message = f"outputs: NaN or infinity at sample 0, first after layer '{layer}'"
    with pytest.raises(NonFiniteError, match=message):
        networks.classify(network, batches(5))
    assert networks.first_non_finite(nn.Linear(6, 4), X) is None
    assert not any(module._forward_hooks for module in network.modules())


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="batches: found no samples to evaluate on"):
        networks.classify(nn.Linear(6, 4), [])


@pytest.mark.parametrize("loss", ["squared", "bce"])
def test_mean_loss_is_that_of_the_oracle(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(50, generator=generator, dtype=torch.float64)
    target = torch.randint(2, (50,), generator=generator).double()
    expected = LOSSES[loss](outputs.numpy(), target.numpy())
    assert networks.mean_loss(outputs, target, loss) == pytest.approx(expected, rel=1e-14)


def test_unknown_losses_are_refused() -> None:
    with pytest.raises(ConfigError, match="objective: found 'hinge', accepted squared, bce"):
        networks.loss_sum(torch.ones(1), torch.ones(1), "hinge")


@pytest.mark.parametrize("positive_negative", [(1.0, -1.0), (1.0, 0.0)])
def test_accuracy_asks_for_the_right_side_of_zero(positive_negative: tuple[float, float]) -> None:
    positive, negative = positive_negative
    target = torch.tensor([positive, positive, negative, negative])
    assert networks.accuracy(torch.tensor([0.1, -0.1, 0.0, -5.0]), target) == 0.75


def test_outputs_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = TwoLayer.initialise(8, 3), torch.rand(50, 3, dtype=torch.float64)
    whole = networks.outputs(network, x)
    monkeypatch.setattr(loss_and_accuracy, "CHUNK_ELEMENTS", 56)
    assert len(loss_and_accuracy.row_chunks(50, 8)) == 8
    torch.testing.assert_close(networks.outputs(network, x), whole, rtol=1e-14, atol=1e-15)
    assert networks.outputs(network, x[:0]).shape == (0,)


def test_threads_that_classify_at_once_find_the_same() -> None:
    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)
            self.seen = 0

        def forward(self, x: Tensor) -> Tensor:
            self.seen = len(x)
            return self.linear(x)[: self.seen]

    network, threads, found = Noting(), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(networks.classify(network, batches(2)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]
