from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.networks.recorded import record
from gfs_dist.networks.values import UnstorableError
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


@pytest.mark.parametrize("name", ["dense", "squeeze_excite", "padded", "conditions", "mlp"])
def test_outputs_are_those_of_the_network(name: str) -> None:
    make, shape = nets.TRACED[name]
    network, x = nets.shaken(make()), torch.randn(3, *shape)
    torch.testing.assert_close(record(network, x)(x[:2]), network(x[:2]))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Step(lambda x: x.copy_(x * 2)), "step 'copy_' changes a tensor in place by Tensor.copy_"),
        (Step(lambda x: x.add_(1) * 0 + x), "its recorded steps give other outputs"),
        (Step(lambda x: torch.relu(x) if x.sum() > 0 else x), "cannot be recorded"),
    ],
)
def test_what_cannot_be_run_in_steps_is_told(network: nn.Module, message: str) -> None:
    with pytest.raises(UnstorableError, match=message):
        record(network, torch.ones(3, 4))


def test_a_network_of_several_outputs_is_refused() -> None:
    with pytest.raises(UnstorableError, match="its output is not one tensor"):
        record(nets.shaken(nets.UNet()), torch.randn(2, *nets.IMAGES))
