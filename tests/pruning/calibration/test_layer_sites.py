"""Which norm, stream and summand a layer's output turns into."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import StepOutput
from gfs_dist.networks.graph.record import record
from gfs_dist.pruning.calibration.layer_sites import Site, ancestors, find_sites, fittable
from tests.pruning.zoo import BasicBlock, Bottleneck, InvertedResidual, images

Facts = tuple[str | None, bool, bool]


class Net(nn.Module):
    """A stem, then ``forward_on`` with the layers given by name."""

    def __init__(self, forward_on: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.stem, self.forward_on = nn.Conv2d(3, 4, 3, padding=1), forward_on
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_on(self, torch.tanh(self.stem(x)))


def conv(outputs: int = 4, **options: object) -> nn.Conv2d:
    return nn.Conv2d(4, outputs, 1, **options)  # type: ignore[arg-type]


def sites_of(network: nn.Module, x: Tensor | None = None) -> dict[str, Site]:
    x = images() if x is None else x
    return {site.module: site for site in find_sites(record(network.eval(), x), x)}


def of(forward_on: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> dict[str, Site]:
    found = sites_of(Net(forward_on, **layers))
    assert "stem" in found
    return found


def facts(site: Site) -> Facts:
    """Norm, whether something is added, whether only ReLUs read on."""
    return site.norm, site.other is not None, site.rectified


def test_basic_block() -> None:
    sites = sites_of(nn.Sequential(BasicBlock(3, 3, 1), BasicBlock(3, 8, 2)))
    assert {name: facts(site) for name, site in sites.items()} == {
        "0.conv1": ("0.bn1", False, True),
        "0.conv2": ("0.bn2", True, True),
        "1.conv1": ("1.bn1", False, True),
        "1.downsample.0": ("1.downsample.1", False, False),
        "1.conv2": ("1.bn2", True, True),
    }


def test_a_blocks_last_layer_makes_up_for_its_shortcuts() -> None:
    """The shortcut's layer is aimed at its own output, and fitted first."""
    sites = sites_of(BasicBlock(3, 8, 2))
    shortcut, last = sites["downsample.0"], sites["conv2"]
    assert shortcut.stream == shortcut.normed
    assert last.other == shortcut.normed
    assert last.stream not in (last.normed, last.output)
    assert list(sites).index("downsample.0") < list(sites).index("conv2")


def test_bottleneck() -> None:
    sites = sites_of(nn.Sequential(Bottleneck(3, 4, 8, 1), nn.ReLU()))
    assert {name: facts(site) for name, site in sites.items()} == {
        "0.conv1": ("0.bn1", False, True),
        "0.conv2": ("0.bn2", False, True),
        "0.downsample.0": ("0.downsample.1", False, False),
        "0.conv3": ("0.bn3", True, True),
    }


def test_inverted_residuals_end_in_a_linear_bottleneck() -> None:
    blocks = InvertedResidual(3, 3, 1, expand=4), InvertedResidual(3, 6, 2, expand=4)
    sites = sites_of(nn.Sequential(*blocks, nn.Conv2d(6, 2, 1)))
    assert {name: facts(site) for name, site in sites.items()} == {
        "0.conv.0": ("0.conv.1", False, True),
        "0.conv.6": ("0.conv.7", True, False),
        "1.conv.0": ("1.conv.1", False, True),
        "1.conv.6": ("1.conv.7", False, False),
        "2": (None, False, False),
    }


def test_pre_activation_block() -> None:
    """The norm before the second convolution is the first one's; the sum has none."""

    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.conv1(functional.relu(net.bn1(x)))
        x = net.conv2(functional.relu(net.bn2(y))) + x
        return net.head(functional.relu(net.bn3(x)))

    sites = of(
        forward,
        bn1=nn.BatchNorm2d(4),
        conv1=conv(bias=False),
        bn2=nn.BatchNorm2d(4),
        conv2=conv(bias=False),
        bn3=nn.BatchNorm2d(4),
        head=conv(2),
    )
    assert facts(sites["conv1"]) == ("bn2", False, True)
    assert facts(sites["conv2"]) == (None, True, False)
    assert facts(sites["head"]) == (None, False, False)


@pytest.mark.parametrize(
    "drop",
    [
        lambda net, y: net.drop(y),
        lambda net, y: functional.dropout(y, 0.5, net.training),
        lambda net, y: functional.dropout2d(y, 0.5, training=net.training),
    ],
)
def test_what_changes_nothing_when_evaluated_is_passed(drop) -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = drop(net, net.norm(drop(net, net.conv(x))))
        return functional.relu(drop(net, y + x))

    sites = of(forward, conv=conv(), norm=nn.BatchNorm2d(4), drop=nn.Dropout(0.5))
    assert facts(sites["conv"]) == ("norm", True, True)


def test_a_dropout_that_is_always_on_is_not_passed() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        return functional.relu(net.conv(x) + functional.dropout(net.more(x), 0.0, True))

    sites = of(forward, conv=conv(), more=conv())
    assert facts(sites["conv"]) == (None, True, True)
    assert facts(sites["more"]) == (None, False, False)


@pytest.mark.parametrize(
    ("add", "other"),
    [
        (lambda y, x: y + x, True),
        (lambda y, x: x + y, True),
        (torch.add, True),
        (lambda y, x: y.add(x), True),
        (lambda y, x: y.add_(x), True),
        (lambda y, x: torch.add(y, x, alpha=2), False),
        (lambda y, x: y - x, False),
        (lambda y, x: y + y, False),
        (lambda y, x: y + 1, False),
        (lambda y, x: y + x.mean((2, 3), keepdim=True), True),  # the target is the sum's
    ],
)
def test_the_other_summand(add, other) -> None:
    sites = of(lambda net, x: functional.relu(add(net.conv(x), x)), conv=conv())
    assert facts(sites["conv"])[1] == other
    assert facts(sites["conv"])[2] == other


def test_a_sum_of_another_shape_is_no_target() -> None:
    """An output that is broadcast over positions cannot be told from them one by one."""

    def forward(net: Net, x: Tensor) -> Tensor:
        return functional.relu(net.gate(x.mean((2, 3), keepdim=True)) + x)

    assert facts(of(forward, gate=conv())["gate"]) == (None, False, False)


def test_layers_without_a_norm_of_their_own() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        x = net.norm(net.one(x))
        x = net.norm(net.two(x))
        x = net.fixed(net.three(x))
        y = net.four(x)
        return net.five(functional.relu(net.last(y)) + y)

    sites = of(
        forward,
        one=conv(),
        two=conv(),
        three=conv(),
        four=conv(),
        five=conv(),
        norm=nn.BatchNorm2d(4),
        fixed=nn.BatchNorm2d(4, affine=False),
        last=nn.BatchNorm2d(4),
    )
    for name in ("one", "two", "three", "four", "five"):
        assert facts(sites[name]) == (None, False, False)


def test_a_norm_of_the_second_of_three_dimensions_is_not_the_layers() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.norm = nn.Linear(5, 4), nn.BatchNorm1d(4)
            self.head, self.last = nn.Linear(16, 6), nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.head(self.norm(self.rows(x)).flatten(1)))

    sites = sites_of(Rows(), torch.randn(3, 4, 5))
    assert sites["rows"].norm is None
    assert sites["head"].norm == "last"


def test_the_networks_output_has_another_reader() -> None:
    sites = sites_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    assert facts(sites["0"]) == (None, False, True)
    assert facts(sites["2"]) == (None, False, False)
    ends = sites_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()))
    assert facts(ends["0"]) == ("1", False, False)


def test_reading_the_shape_of_a_result_is_not_reading_it() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        x = net.conv(x)
        return functional.interpolate(functional.relu(net.norm(x)), size=x.shape[2:])

    assert facts(of(forward, conv=conv(), norm=nn.BatchNorm2d(4))["conv"]) == ("norm", False, True)


def test_layers_whose_numbers_others_use_are_no_sites() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        x = net.twice(torch.tanh(net.twice(x)))
        x = net.tied(net.first(x))
        x = functional.conv2d(torch.tanh(net.plain(x)), net.plain.weight)
        return net.own(x)

    tied = conv()
    first = conv()
    tied.weight = first.weight
    sites = of(forward, twice=conv(), first=first, tied=tied, plain=conv(), own=conv())
    assert list(sites) == ["stem", "own"]


@pytest.mark.parametrize(
    ("module", "accepted"),
    [
        (nn.Conv2d(4, 4, 3), True),
        (nn.Linear(4, 4), True),
        (nn.Conv2d(4, 4, 3, groups=2), True),
        (nn.Conv2d(4, 4, 3, groups=4), False),
        (nn.Conv2d(4, 4, 3, padding="same"), True),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), True),
        (nn.Conv1d(4, 4, 3), True),
        (nn.ConvTranspose2d(4, 4, 3), True),
        (nn.Bilinear(4, 4, 3), False),
    ],
    ids=str,
)
def test_what_least_squares_can_fit(module, accepted) -> None:
    assert fittable(module) == accepted


def test_sites_come_after_all_that_they_depend_on() -> None:
    """Here the shortcut is computed after the block, and has two layers."""

    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.conv2(torch.relu(net.conv1(x)))
        z = torch.relu(net.deep(torch.relu(net.short(x))))
        return net.head(y + z)

    layers = {name: conv() for name in ("conv1", "conv2", "short", "deep", "head")}
    network = record(Net(forward, **layers).eval(), images())
    sites = find_sites(network, images())
    before = ancestors(network)
    place = {site.output: number for number, site in enumerate(sites)}
    for number, site in enumerate(sites):
        needed = before[site.source] | (before[site.other] if site.other else frozenset())
        assert all(place[name] < number for name in needed & place.keys())
    assert [site.module for site in sites] == ["stem", "conv1", "short", "deep", "conv2", "head"]


class Same(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("layer", "x", "sites"),
    [
        (Same(4, 3), torch.randn(5, 4), ["layer"]),
        (Twice(4, 3, 3), torch.randn(2, 4, 5, 5), []),
        (type("Other", (nn.Conv2d,), {})(4, 3, 3), torch.randn(2, 4, 5, 5), ["layer"]),
    ],
    ids=["same", "twice", "renamed"],
)
def test_layers_of_other_classes_are_sites_if_they_compute_the_same(
    layer: nn.Module, x: Tensor, sites: list[str]
) -> None:
    steps = [Step("y", "module", "layer", [StepOutput("x")], {})]
    network = GraphNetwork(["x"], steps, StepOutput("y")).eval()
    network.add_module("layer", layer)
    assert [site.module for site in find_sites(network, x)] == sites
