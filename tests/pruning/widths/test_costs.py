"""The cost model gives the counts of networks that were really shrunk."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.structure.shrink import shrink
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.pruning.widths.costs import Costs, measure_costs
from tests.pruning.oddities import upsampled


class Everything(nn.Module):
    """Concatenation, PReLU, a norm over two layers, depthwise, transposed, flatten, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 4, 1, bias=False)
        self.norm, self.act = nn.BatchNorm2d(9), nn.PReLU(9)
        self.mixed = nn.Conv2d(9, 6, 3, padding=1, stride=2)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.up = nn.ConvTranspose2d(6, 7, 2, stride=2)
        self.down = nn.Conv2d(7, 3, 3, stride=2)
        self.head, self.logits = nn.Linear(27, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        x = self.down(self.up(self.depth(self.mixed(x)).relu()).relu())
        return self.logits(self.head(x.relu().flatten(1)).relu())


class Stream(nn.Module):
    """A plain residual stream: with coupled widths a convolution reads and writes one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.conv(x)).relu().mean((2, 3)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (lambda: networks.make("resnet20_cifar", 10), 32),
    "resnet18": (lambda: networks.make("resnet18", 10), 32),
    "resnet50": (lambda: networks.make("resnet50_cifar", 10), 16),
    "mobilenet_v2": (lambda: networks.make("mobilenet_v2_cifar", 10), 32),
    "everything": (Everything, 8),
    "stream": (Stream, 8),
    "upsampled": (lambda: upsampled(nn.ConvTranspose2d, nn.Conv2d(3, 8, 3), 8), 8),
}
"""What makes each network, and the pixels of its images."""


def dense(name: str, *, coupled: bool = False) -> tuple[nn.Module, Tensor, Structure, Costs]:
    torch.manual_seed(0)
    make, pixels = NETWORKS[name]
    network, example = make(), torch.randn(2, 3, pixels, pixels)
    structure = find_structure(network, example, coupled=coupled)
    return network, example, structure, measure_costs(network, example, structure)


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_the_shrunk_network(name: str, coupled: bool) -> None:
    network, example, structure, costs = dense(name, coupled=coupled)
    assert costs.dense("macs") == networks.count_macs(network, example)
    assert costs.dense("params") == networks.count_params(network)
    draw = random.Random(0)
    for _ in range(2):
        kept = {
            layer.name: sorted(
                draw.sample(range(layer.num_candidates), draw.randint(1, layer.num_candidates))
            )
            for layer in structure.layers
        }
        smaller = shrink(network, structure, kept)
        widths = {name: len(candidates) for name, candidates in kept.items()}
        assert costs.of("macs", widths) == networks.count_macs(smaller, example)
        assert costs.of("params", widths) == networks.count_params(smaller)


def test_the_test_network_has_every_kind_of_layer() -> None:
    *_, structure, costs = dense("everything")
    assert list(costs.channels.items()) == [
        ("left", 5), ("right", 4), ("mixed", 6), ("up", 7), ("down", 3), ("head", 8)
    ]  # fmt: skip
    flattened = next(layer for layer in structure.layers if layer.name == "down").consumers
    assert len(flattened[0].channels[0]) == 9
    *_, costs = dense("stream", coupled=True)
    assert costs.kinds["macs"].pairs.tolist() == [[9 * 36]], "one layer on both sides of a weight"


def test_known_network_has_its_known_cost() -> None:
    *_, costs = dense("resnet20")
    assert (costs.dense("macs"), costs.dense("params")) == (40_551_040, 269_722)
    narrow = costs.of("macs", {"layer1.0.conv1": 15})
    assert costs.dense("macs") - narrow == 2 * 9 * 16 * 32 * 32, "both sides of one channel"
