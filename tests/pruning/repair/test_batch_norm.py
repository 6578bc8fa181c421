"""Batch norms measured again: the statistics of all samples, however they come."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.record import record
from gfs_dist.pruning.repair.batch_norm import recalibrate
from tests.pruning import zoo

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def images(samples: int = 30) -> Tensor:
    """Two kinds of images, one after the other: no batch is like the whole."""
    torch.manual_seed(0)
    x = torch.randn(samples, 3, 8, 8, dtype=torch.float64)
    x[samples // 2 :] += 3.0
    return x


def recorded(model: nn.Module, x: Tensor) -> GraphNetwork:
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, NORMS):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return record(model.double().eval(), x[:2])


def seen_by_norms(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each norm reads when all samples go through at once: (channels, values)."""
    seen: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, NORMS):
            module.register_forward_pre_hook(
                lambda _module, inputs, name=name: seen.update(
                    {name: inputs[0].transpose(0, 1).flatten(1)}
                )
            )
    with torch.no_grad():
        network(x)
    return seen


@pytest.mark.parametrize("make", [zoo.resnet18, zoo.mobilenet, zoo.densenet])
@pytest.mark.parametrize("sizes", [[30], [15, 15], [23, 6, 1]], ids=str)
def test_statistics_are_those_of_all_samples_as_the_network_then_sees_them(make, sizes) -> None:
    x = images()
    network = recorded(make(), x)
    recalibrate(network, x.split(sizes))
    seen = seen_by_norms(copy.deepcopy(network), x)
    assert seen
    for name, values in seen.items():
        norm = network.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, values.mean(1))
        torch.testing.assert_close(norm.running_var, values.var(1))


def test_a_last_batch_of_one_sample_counts_as_one() -> None:
    x = torch.randn(9, 6, dtype=torch.float64)
    network = recorded(mlp(), x)
    recalibrate(network, x.split(8))
    (values,) = seen_by_norms(copy.deepcopy(network), x).values()
    torch.testing.assert_close(network.get_submodule("1").running_var, values.var(1))


def test_of_one_value_nothing_can_be_learnt() -> None:
    x = torch.randn(9, 6, dtype=torch.float64)
    network = recorded(mlp(), x)
    before = copy.deepcopy(network.state_dict())
    recalibrate(network, [x[:1]])
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_only_statistics_change() -> None:
    x = images()
    network = recorded(zoo.resnet18(), x)
    before = copy.deepcopy(network.state_dict())
    recalibrate(network, x.split(7))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.endswith(("_mean", "_var"))), name
    assert not any(module.training for module in network.modules())


def test_a_norm_that_is_called_twice_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(6), nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(torch.relu(self.norm(x))))

    x = torch.randn(9, 6, dtype=torch.float64) + 1
    network = recorded(Twice(), x)
    recalibrate(network, x.split(4))
    assert not network.get_submodule("norm").running_mean.any()
    assert network.get_submodule("last").running_mean.all()


def test_the_variance_about_a_large_mean_is_that_of_the_values_in_half_precision() -> None:
    """The mean rounded to bfloat16 is half a deviation off."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.BatchNorm1d(4)).to(torch.bfloat16).eval()
    x = (100 + torch.randn(2000, 4)).to(torch.bfloat16)
    network = record(model, x[:2])
    recalibrate(network, x.split(500))
    found = network.get_submodule("0").running_var.double()
    torch.testing.assert_close(found, x.double().var(0), rtol=0.01, atol=0)


def test_a_variance_that_the_dtype_cannot_hold_names_the_norm() -> None:
    model = nn.Sequential(nn.Identity(), nn.BatchNorm1d(4)).half().eval()
    x = (400 * torch.randn(50, 4)).half()
    network = record(model, x[:2])
    with pytest.raises(NonFiniteError, match=r"layer '1': its running_var .* torch.float16 holds"):
        recalibrate(network, [x])


class NormAct(nn.BatchNorm2d):
    """A class of the user's: recorded are its tensors and a call of the function."""

    def forward(self, x: Tensor) -> Tensor:
        statistics = {"running_mean": self.running_mean, "running_var": self.running_var}
        return functional.batch_norm(x, **statistics, weight=self.weight, bias=self.bias).relu()


def test_norms_of_another_class_are_measured_too() -> None:
    x = images()
    plain = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU()),
    )
    other = nn.Sequential(plain[0], NormAct(6), plain[3], NormAct(5))
    networks = [record(model.double().eval(), x[:2]) for model in (plain, other)]
    for network in networks:
        recalibrate(network, x.split([20, 10]))
    for one, two in (("1", "1"), ("4", "3")):
        for key in ("running_mean", "running_var"):
            expected = networks[0].get_buffer(f"{one}.{key}")
            assert expected.std() > 0
            torch.testing.assert_close(networks[1].get_buffer(f"{two}.{key}"), expected)
