from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gfs_dist import networks
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.measure import costs


class Twice(nn.Module):
    """One convolution called twice and known by two names, one never called."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.shared
        self.unused = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(torch.relu(self.again(x)))


KINDS = [
    (nn.Conv2d(6, 8, (3, 5), stride=2, padding=1, groups=2), (6, 9, 11)),
    (nn.Conv2d(6, 6, 3, groups=6, dilation=2, bias=False), (6, 9, 9)),
    (nn.Conv1d(3, 4, 5), (3, 20)),
    (nn.Conv3d(2, 3, 2), (2, 4, 5, 6)),
    (nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), (6, 5, 7)),
    (nn.Linear(7, 3), (7,)),
    (nn.Linear(7, 3), (5, 7)),
    (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)),
        (3, 6, 6),
    ),
    (Twice(), (4, 6, 6)),
]


@pytest.mark.parametrize(("network", "shape"), KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_multiply_adds_are_half_of_torchs_operations(
    network: nn.Module, shape: tuple[int, ...], batch: int
) -> None:
    x = torch.rand(batch, *shape)
    with FlopCounterMode(display=False) as counter:
        network.eval()(x)
    assert networks.count_macs(network, x) * 2 * batch == counter.get_total_flops()


def test_a_module_that_is_called_twice_counts_twice_under_its_first_name() -> None:
    found = networks.macs_by_module(Twice(), torch.rand(2, 4, 6, 6))
    assert found == {"shared": 2 * 4 * 4 * 9 * 36}


def test_modules_are_named_in_forward_order() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Linear(3, 5)
            self.first = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    assert list(networks.macs_by_module(Backwards(), torch.rand(1, 2)).items()) == [
        ("first", 6),
        ("second", 15),
    ]


def test_parameters_are_counted_once_and_buffers_not() -> None:
    assert networks.count_params(Twice()) == 4 * 4 * 9 + 4 + 30
    assert networks.count_params(nn.BatchNorm2d(3)) == 6
    assert networks.count_params(nn.ReLU()) == 0


def test_counting_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    networks.count_macs(network, torch.rand(1, 3, 5, 5))
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_hooks_are_gone_after_a_network_that_fails() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        networks.count_macs(network, torch.rand(1, 3))
    assert not any(module._forward_hooks for module in network.modules())
    assert network.training


def test_sizes_count_both_layers() -> None:
    network = TwoLayer(10, 64)
    macs = networks.count_macs(network, torch.rand(3, 64))
    assert macs == networks.count_params(network) == 10 * 64 + 10


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
