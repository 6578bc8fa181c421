from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.pruning.discover import find_structure
from gfs_dist.pruning.shrink import mask, shrink
from gfs_dist.pruning.structure import Structure


class ZeroPadBlock(nn.Module):
    """The CIFAR residual block: the shortcut drops every other pixel and pads with channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(y + x)


class ZeroPadResNet(nn.Module):
    """The CIFAR ResNet20, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = ZeroPadBlock(8, 8, 1)
        self.layer2 = ZeroPadBlock(8, 16, 2)
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x)))))
        return self.linear(x.mean((2, 3)))


def halves(structure: Structure) -> dict[str, list[int]]:
    return {
        layer.name: list(range(1, layer.num_candidates, 2)) or [0] for layer in structure.layers
    }


def test_inner_channels_of_residual_blocks_are_found_and_removed() -> None:
    network, x = ZeroPadResNet().eval(), torch.randn(3, 3, 16, 16)
    structure = find_structure(network, x)
    assert [layer.name for layer in structure.layers] == ["layer1.conv1", "layer2.conv1"]
    assert [skip.name for skip in structure.skipped] == [
        "conv1", "layer1.conv2", "layer2.conv2", "linear"
    ]  # fmt: skip
    smaller = shrink(network, structure, halves(structure))
    assert smaller.get_submodule("layer2.conv1").weight.shape == (8, 8, 3, 3)
    assert smaller.get_submodule("layer2.conv2").weight.shape == (16, 8, 3, 3)
    torch.testing.assert_close(smaller(x), mask(network, structure, halves(structure))(x))
