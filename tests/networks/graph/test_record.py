"""Recorded steps are out of place and compute what the network does.

Reaches inside: pruning uses recorded steps, and shows none of them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.networks.graph.json_values import UnstorableError
from gfs_dist.networks.graph.record import record
from tests.networks import nets


class Step(nn.Module):
    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.step = nn.Linear(4, 4), nn.Linear(4, 4), step

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.step(self.first(x)))


def twice(x: Tensor) -> Tensor:
    x += 1
    x *= 2
    x -= 0.5
    x /= 3
    return x


@pytest.mark.parametrize(
    "step",
    [
        twice,
        torch.relu_,
        lambda x: x.add_(1).clamp_(-1, 1),
        lambda x: functional.relu(x, inplace=True),
        lambda x: functional.relu(x, True),
        lambda x: functional.leaky_relu(functional.elu(x, 0.5, True), 0.2, inplace=True),
        lambda x: functional.relu(x, False) + x,
        lambda x: x if not x.shape[1] > 4 and x.shape[0] else -x,
    ],
)
def test_no_step_changes_an_earlier_result(step: Callable[[Tensor], Tensor]) -> None:
    network, x = Step(step).eval(), torch.randn(3, 4)
    recorded = record(network, x)
    torch.testing.assert_close(recorded(x), network(x))
    results = {recorded.gfs_inputs[0]: x, "training?": False}
    for one in recorded.gfs_program:
        before = {name: y.clone() for name, y in results.items() if isinstance(y, Tensor)}
        results[one.name] = recorded.run_step(one, results)
        assert all(torch.equal(results[name], y) for name, y in before.items())


class Overwriting(nn.Module):
    """The shortcut takes what a layer in place has made of it, and statements have no result."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.same = self.relu
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(self.same(x)) + x
        z = y
        y.mul_(2)
        functional.relu_(y)
        size = x.shape[0]
        size += 1
        return z * size + y


def test_later_steps_use_what_earlier_ones_changed() -> None:
    network, x = Overwriting().eval(), torch.randn(3, 4)
    recorded = record(network, x)
    torch.testing.assert_close(recorded(x), network(x))
    assert not any(getattr(module, "inplace", False) for module in recorded.modules())
    torch.testing.assert_close(record(recorded, x)(x), network(x))


def test_the_example_stays_as_it_was() -> None:
    x = -torch.ones(2, 4)
    record(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), x)
    assert torch.equal(x, -torch.ones(2, 4))


def test_a_network_that_gives_nan_is_recorded() -> None:
    """Which layer it is can then be told."""
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight[0, 0] = torch.nan
        network[2].bias[1] = torch.inf
    assert record(network, torch.randn(2, 4))(torch.randn(3, 4)).isnan().all()


@pytest.mark.parametrize("name", ["dense", "squeeze_excite", "padded", "conditions", "mlp"])
def test_outputs_are_those_of_the_network(name: str) -> None:
    make, shape = nets.TRACED[name]
    network, x = nets.shaken(make()), torch.randn(3, *shape)
    torch.testing.assert_close(record(network, x)(x[:2]), network(x[:2]))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Step(lambda x: x.copy_(x * 2)), "step 'copy_' changes a tensor in place by Tensor.copy_"),
        (Step(lambda x: x[:, :2].add_(1).sum() + x), "its recorded steps give other outputs"),
        (Step(lambda x: torch.relu(x) if x.sum() > 0 else x), "cannot be recorded"),
    ],
)
def test_what_cannot_be_run_in_steps_is_told(network: nn.Module, message: str) -> None:
    with pytest.raises(UnstorableError, match=message):
        record(network, torch.ones(3, 4))


def test_a_network_of_several_outputs_is_refused() -> None:
    with pytest.raises(UnstorableError, match="its output is not one tensor but a"):
        record(nets.shaken(nets.UNet()), torch.randn(2, *nets.IMAGES))


@pytest.mark.parametrize(("padding", "kernel"), [("same", 3), ("same", (1, 5)), ("valid", 2)])
def test_padding_by_name_becomes_numbers(padding: str, kernel: int | tuple[int, int]) -> None:
    network, x = nn.Sequential(nn.Conv2d(3, 4, kernel, padding=padding)), torch.randn(2, 3, 6, 6)
    recorded = record(network, x)
    assert not isinstance(recorded.get_submodule("0").padding, str)
    assert torch.equal(recorded(x), network(x))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_padding_that_differs_at_the_ends_keeps_its_name() -> None:
    network, x = nn.Sequential(nn.Conv2d(3, 4, 2, padding="same")), torch.randn(2, 3, 6, 6)
    assert record(network, x).get_submodule("0").padding == "same"


def test_the_length_of_a_batch_is_recorded_not_its_number() -> None:
    network, x = Step(lambda x: x.reshape(len(x), 2, -1).flatten(1)), torch.randn(3, 4)
    recorded = record(network, x)
    more = torch.randn(5, 4)
    torch.testing.assert_close(recorded(more), network(more))
    assert "len" not in globals()
