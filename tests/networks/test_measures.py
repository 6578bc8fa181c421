from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.errors import ConfigError
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.measure import costs, loss_and_accuracy
from tests.oracles import LOSSES


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


def test_sizes_count_both_layers() -> None:
    network = TwoLayer(10, 64)
    assert network.macs == networks.count_params(network) == 10 * 64 + 10


def test_latency_of_any_network_is_timed_in_evaluation_mode_and_its_own_dtype() -> None:
    seen = []

    class Recording(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, x.dtype, torch.is_grad_enabled()))
            return self.linear(x)

    network = Recording()
    found = networks.latency(network, torch.rand(5, 3), repeats=4)
    assert found.batch == 5
    assert set(seen) == {(False, torch.float64, False)}
    assert len(seen) == 4 + costs.WARM_UP
    assert network.training


def test_latency_times_the_forward_pass() -> None:
    found = networks.latency(TwoLayer.initialise(10, 3), torch.rand(5, 3), repeats=4)
    assert (found.batch, found.repeats) == (5, 4)
    assert 0 < found.min_s <= found.median_s <= found.max_s
