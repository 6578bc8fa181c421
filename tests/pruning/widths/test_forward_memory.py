"""Bytes of a forward pass: what can be counted by hand, on any machine the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import gfs_dist
from gfs_dist.errors import BudgetError
from gfs_dist.networks.graph.followed_network import FollowedNetwork
from gfs_dist.networks.graph.record import record
from gfs_dist.networks.measure.inputs import BatchForm, Inputs, Slot
from gfs_dist.pruning.widths.forward_memory import forward_bytes


class Residual(nn.Module):
    """``x + second(relu(first(x)))``: the scaled input outlives the block."""

    def __init__(self, hidden: int = 40, *, inplace: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, hidden), nn.Linear(hidden, 6)
        self.relu = nn.ReLU(inplace=inplace)
        self.register_buffer("scale", torch.ones(6, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        early = x * self.scale.float()
        out: Tensor = early + self.second(self.relu(self.first(early)))
        return out


def by_hand(hidden: int, count: int) -> int:
    """Beside the early result, what is before and after the activation, or the sum."""
    weights = 4 * (6 * hidden + hidden + hidden * 6 + 6) + 8 * 6
    return weights + 4 * count * (6 + 6 + max(2 * hidden, 12))


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("inplace", [False, True])
def test_results_alive_at_once_are_counted_by_hand(count: int, inplace: bool) -> None:
    network, x = Residual(inplace=inplace).eval(), torch.randn(count, 6)
    assert forward_bytes(record(network, torch.randn(2, 6)), x) == by_hand(40, count)
    form = BatchForm(Slot("x"))
    followed = FollowedNetwork(copy.deepcopy(network), Inputs({"x": torch.randn(2, 6)}, form))
    assert forward_bytes(followed, Inputs({"x": x}, form)) == by_hand(40, count)


def test_views_and_shared_weights_count_once() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.first(x).view(-1, 2, 4).flatten(1).t().t())
            return out

    network = record(Views().eval(), torch.randn(2, 8))
    assert forward_bytes(network, torch.randn(3, 8)) == 4 * (64 + 8 + 8 + 24 + 2 * 24)


@pytest.mark.parametrize("budget", [{"memory": 0.5}, {"memory": 0.6, "macs": 0.9, "batch": 9}])
def test_memory_is_met_and_named(budget: dict[str, float]) -> None:
    torch.manual_seed(0)
    result = gfs_dist.prune(Residual(), [torch.randn(200, 6)], budget=budget)
    hidden = result.model.first.out_features
    count = int(budget.get("batch", 1))
    used = by_hand(hidden, count) / (budget["memory"] * by_hand(40, count))
    assert used <= 1 < by_hand(hidden + 2, count) / (budget["memory"] * by_hand(40, count))
    assert result.report["used"]["memory"] == pytest.approx(used)
    assert (result.report["rule"], result.report["binds"]) == ("memory", "memory")


def test_limits_that_hold_anyway_leave_the_widths_as_they_were() -> None:
    torch.manual_seed(0)
    result = gfs_dist.prune(Residual(), [torch.randn(200, 6)], budget={"macs": 0.5})
    again = result.cut({"macs": 0.5, "memory": 0.95, "params": 0.99})
    assert again.report["layers"] == result.report["layers"]
    assert again.report["binds"] == "macs"
    assert again.report["used"].keys() == {"macs", "params", "memory"}


def test_memory_that_cannot_be_met_is_refused_before_the_search() -> None:
    with pytest.raises(
        BudgetError, match=r"^budget\.memory: found 10% \(\S+ bytes at batch 4\), but"
    ) as caught:
        gfs_dist.prune(Residual(), [torch.randn(200, 6)], budget={"memory": 0.1, "batch": 4})
    assert caught.value.exit_code == 3
    least = by_hand(1, 4) / by_hand(40, 4)
    assert f"({100 * least + 0.005:.2f}%)" in str(caught.value)
