from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gfs_dist.errors import InputError
from gfs_dist.networks.graph.record import record
from gfs_dist.pruning.calibration.consumers import ConsumerCall, find_consumer_calls
from gfs_dist.pruning.structure.structure import Layer, Slice

PAIRS = ((4, 1), (0, 5))
"""Two candidates with two inputs each; inputs 2 and 3 belong to none."""


def layer(*consumers: str) -> Layer:
    return Layer("first", 2, (), (), tuple(Slice(name, PAIRS) for name in consumers))


def call_of(module: nn.Module, x: Tensor) -> ConsumerCall:
    network = record(nn.Sequential(nn.Identity(), module).double().eval(), x)
    (found,) = find_consumer_calls(network, layer("1"))
    return found


KINDS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(6, 4), (6,)),
    (nn.Linear(6, 4, bias=False), (5, 6)),
    (nn.Conv1d(6, 4, 3, padding=1), (6, 7)),
    (nn.Conv2d(6, 4, 3, stride=2, padding=(1, 0), dilation=2), (6, 9, 8)),
    (nn.Conv3d(6, 4, 2), (6, 3, 3, 3)),
    (nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1), (6, 3, 4)),
]


@pytest.mark.parametrize(("module", "shape"), KINDS, ids=lambda kind: type(kind).__name__)
def test_partial_outputs_sum_up_to_the_gated_one(module: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, *shape, dtype=torch.float64)
    found = call_of(module, x)
    assert found.is_additive
    factors = torch.tensor([[0.7, -2.0]], dtype=torch.float64)
    output = found.module(found.gated(x, found.gates(factors)))
    empty = found.module(found.gated(x, found.gates(torch.zeros_like(factors))))
    partial = sum(float(f) * found.contribution(x, i) for i, f in enumerate(factors[0]))
    torch.testing.assert_close(empty + partial, output)
    assert not torch.allclose(empty, output)
    whole = found.module(found.gated(x, found.gates(torch.ones_like(factors))))
    torch.testing.assert_close(whole, found.module(x), rtol=0, atol=0)


def test_every_row_has_its_own_gates() -> None:
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    found = call_of(nn.Conv2d(6, 4, 3), x)
    factors = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
    gated = found.gated(x, found.gates(factors))
    expected = torch.tensor([[0.0, 1, 1, 1, 1, 0], [2, 0.5, 1, 1, 0.5, 2]], dtype=torch.float64)
    torch.testing.assert_close(gated, x * expected[:, :, None, None])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), nn.Conv2d(6, 4, 2, padding="same")],
)
def test_convolutions_that_pad_by_themselves_are_run_whole(conv: nn.Module) -> None:
    assert not call_of(conv, torch.randn(2, 6, 5, 5, dtype=torch.float64)).is_additive


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.never = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        return self.second(self.second(self.first(x)))


def test_a_consumer_is_called_once() -> None:
    network = record(Twice().eval(), torch.randn(2, 6))
    with pytest.raises(InputError, match="layer 'first': its consumer 'second' is called 2 times"):
        find_consumer_calls(network, layer("second"))
    with pytest.raises(InputError, match="its consumer 'never' is called 0 times"):
        find_consumer_calls(network, layer("never"))
