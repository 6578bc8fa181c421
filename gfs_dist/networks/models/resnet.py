"""ResNets: 18, 34 and 50 for ImageNet and CIFAR, and the 6n + 2 layers that were made for CIFAR.

Blocks read no width of their own, so that a network works on after channels were removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional


def scaled(channels: int, width: float) -> int:
    """``width * channels``, rounded to a whole number, at least 1."""
    return max(1, math.floor(width * channels + 0.5))


def projected(in_channels: int, channels: int, stride: int) -> nn.Module:
    """A shortcut: identity, or a 1x1 convolution where the shape changes."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )


class PaddedShortcut(nn.Module):
    """Every ``stride``-th pixel, between ``before`` and ``after`` channels of zeros."""

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.before, self.after))


def padded(in_channels: int, channels: int, stride: int) -> nn.Module:
    """A shortcut without parameters: identity, or a :class:`PaddedShortcut`."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    added = channels - in_channels
    return PaddedShortcut(stride, added // 2, added - added // 2)


Shortcut = Callable[[int, int, int], nn.Module]
"""Makes a shortcut from its input channels, output channels and stride."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, shortcut: Shortcut = projected
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision has it) and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = projected(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(out + self.downsample(x))


class ResNet(nn.Module):
    """Stem, four stages of blocks, global average pooling, linear.

    Args:
        block: class of the blocks.
        depths: blocks in each stage.
        cifar: a 3x3 stem of stride 1 without max-pooling, for images of about 32 pixels, in place
            of the 7x7 one of stride 2 with max-pooling.
        width: times 64, 128, 256 and 512 channels, see :func:`scaled`.

    Source: He et al. 2015, arXiv:1512.03385; stride of the bottleneck as in torchvision.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
        *,
        cifar: bool,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        expansion = block.expansion
        first, second, third, fourth = (scaled(count, width) for count in (64, 128, 256, 512))
        if cifar:
            self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, first, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(block, first, first, depths[0], 1, expansion)
        self.layer2 = _stage(block, first * expansion, second, depths[1], 2, expansion)
        self.layer3 = _stage(block, second * expansion, third, depths[2], 2, expansion)
        self.layer4 = _stage(block, third * expansion, fourth, depths[3], 2, expansion)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(fourth * expansion, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, classes) of images (m, channels, height, width)."""
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class CifarResNet(nn.Module):
    """A stem of 16 channels, three stages of 16, 32 and 64, global average pooling, linear.

    Args:
        depth: blocks in each stage, n.
        width: times 16, 32 and 64 channels, see :func:`scaled`.

    Source: He et al. 2015, arXiv:1512.03385, section 4.2 (shortcuts of option A); names of
    tensors as in github.com/akamaster/pytorch_resnet_cifar10.
    """

    def __init__(
        self, depth: int, num_classes: int, in_channels: int, *, width: float = 1.0
    ) -> None:
        super().__init__()
        block = partial(BasicBlock, shortcut=padded)
        first, second, third = (scaled(count, width) for count in (16, 32, 64))
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(block, first, first, depth, 1)
        self.layer2 = _stage(block, first, second, depth, 2)
        self.layer3 = _stage(block, second, third, depth, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, classes) of images (m, channels, height, width)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.avgpool(x), 1))


def initialise(network: nn.Module) -> None:
    """He's Gaussian weights for convolutions (fan out); everything else stays torch's own.

    Without numbers (on the meta device) there is nothing to draw, and to draw nothing torch imports
    its compiler, which takes two seconds.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stage(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    channels: int,
    depth: int,
    stride: int,
    expansion: int = 1,
) -> nn.Sequential:
    """``depth`` blocks, the first with the stride."""
    width = channels * expansion
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(width, channels, 1) for _ in range(depth - 1)))
