"""Channels that go together behind grouped convolutions, gates and chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gfs_dist.networks.measure.inputs import tensors_of
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.structure.shrink import mask, shrink


class GroupedBlock(nn.Module):
    """RegNetY's bottleneck: excitation between the grouped convolution and the last one."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 2, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc1, self.fc2 = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
        self.conv3, self.shortcut = nn.Conv2d(width, 6, 1), nn.Conv2d(3, 6, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        y = y * self.fc2(self.fc1(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return (self.conv3(y) + self.shortcut(x)).relu()


class C2f(nn.Module):
    """YOLOv8's block: one half goes on, and all that came is joined."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.m, self.cv2 = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(4, 4, 3, 1, 1),
            nn.Conv2d(12, 5, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).relu().chunk(2, 1))
        y.append(self.m(y[-1]).relu())
        return self.cv2(torch.cat(y, 1))


class Generator(nn.Module):
    """A linear layer makes pixels of features; group norm and a transposed convolution follow."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(48, 96), nn.GroupNorm(3, 6)
        self.up, self.out = nn.ConvTranspose2d(6, 8, 4, 2, 1), nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.flatten(1)).unflatten(1, (-1, 4, 4))
        return self.out(self.up(self.norm(x).relu()).relu())


CASES = {
    "whole groups": (lambda: GroupedBlock(24, 8), {"conv1": (8, "groups"), "fc1": (4, "channels")}),
    "equal numbers of each group": (
        lambda: GroupedBlock(24, 2),
        {"conv1": (12, "channels"), "conv2": (12, "channels"), "fc1": (4, "channels")},
    ),
    "halves": (C2f, {"cv1": (4, "channels"), "m": (4, "channels")}),
    "pixels": (Generator, {"enter": (3, "channels"), "up": (8, "channels")}),
}


@pytest.mark.parametrize("name", CASES)
def test_candidates_and_what_they_are(name: str) -> None:
    make, expected = CASES[name]
    torch.manual_seed(0)
    network, x = make().double().eval(), torch.randn(3, 3, 4, 4, dtype=torch.float64)
    structure = find_structure(network, x)
    assert {one.name: (one.num_candidates, one.kind) for one in structure.layers} == expected
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.bias)
    kept = {one.name: (0, *range(2, one.num_candidates)) for one in structure.layers}
    small, masked = shrink(network, structure, kept), mask(network, structure, kept)
    for one, other in zip(tensors_of(small(x)), tensors_of(masked(x)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_norm_over_groups_keeps_fewer_of_them() -> None:
    network, x = Generator().eval(), torch.randn(2, 3, 4, 4)
    small = shrink(network, find_structure(network, x), {"enter": (0, 2)})
    assert (small.norm.num_groups, small.norm.num_channels) == (2, 4)
    assert (small.enter.out_features, small.up.in_channels) == (64, 4)
