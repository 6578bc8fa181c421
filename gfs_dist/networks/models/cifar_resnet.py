"""The ResNets that He et al. made for CIFAR-10: 6n + 2 layers, shortcuts without parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.networks.models.resnet import initialise


class PaddedShortcut(nn.Module):
    """Every ``stride``-th pixel, and ``pad`` channels of zeros on each side."""

    def __init__(self, stride: int, pad: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.pad, self.pad))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the width between them is free."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = PaddedShortcut(stride, (channels - in_channels) // 2)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """A stem of 16 channels, three stages of 16, 32 and 64, global average pooling, linear.

    Args:
        depth: blocks in each stage, n.
        num_classes: outputs.
        in_channels: of the images.

    Source: He et al. 2015, arXiv:1512.03385, section 4.2 (shortcuts of option A); names of
    tensors as in github.com/akamaster/pytorch_resnet_cifar10.
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, depth, 1)
        self.layer2 = _stage(16, 32, depth, 2)
        self.layer3 = _stage(32, 64, depth, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, classes) of images (m, channels, height, width)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.avgpool(x), 1))


def _stage(in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    first = CifarBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(CifarBlock(channels, channels, 1) for _ in range(depth - 1)))
