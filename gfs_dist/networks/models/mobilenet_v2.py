"""MobileNetV2 in the ImageNet and the CIFAR form; torchvision's names of tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfs_dist.networks.models.resnet import initialise

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, blocks and first stride of each stage."""
FIRST_CHANNELS, LAST_CHANNELS = 32, 1280
MULTIPLE = 8


def in_eights(channels: int, width: float) -> int:
    """``width * channels`` to the nearest multiple of 8 that is not below nine tenths of it."""
    nearest = max(MULTIPLE, int(width * channels + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
    return nearest if nearest >= 0.9 * width * channels else nearest + MULTIPLE


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise (3x3), project (1x1); the width in the middle is free.

    Args:
        in_channels, out_channels: of the block.
        stride: of the depthwise convolution.
        expansion: width in the middle over ``in_channels``; 1 leaves the expansion out.
        cifar: the CIFAR form.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int, *, cifar: bool
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [_unit(in_channels, hidden, 1, cifar=cifar)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _unit(hidden, hidden, 3, stride, groups=hidden, cifar=cifar),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.has_shortcut = stride == 1 and (cifar or in_channels == out_channels)
        if self.has_shortcut and in_channels != out_channels:
            self.shortcut: nn.Module = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return out + self.shortcut(x) if self.has_shortcut else out


class MobileNetV2(nn.Module):
    """Stem, 17 inverted residuals, a 1x1 convolution, global average pooling, linear.

    The CIFAR form, for images of about 32 pixels, is the one that the paper trains: stride 1 in
    the stem and the second stage, ReLU in place of ReLU6, and a 1x1 convolution as shortcut where
    a block of stride 1 changes the width (``features.N.shortcut``).

    Args:
        width: times all channels, see :func:`in_eights`; the last 1,280 become more, never fewer.

    Source: Sandler et al. 2018, arXiv:1801.04381; github.com/kuangliu/pytorch-cifar.
    """

    def __init__(
        self, num_classes: int, in_channels: int, *, cifar: bool, width: float = 1.0
    ) -> None:
        super().__init__()
        present = in_eights(FIRST_CHANNELS, width)
        last = in_eights(LAST_CHANNELS, max(1.0, width))
        features: list[nn.Module] = [_unit(in_channels, present, 3, 1 if cifar else 2, cifar=cifar)]
        for stage, (expansion, whole, depth, first_stride) in enumerate(STAGES):
            channels = in_eights(whole, width)
            for number in range(depth):
                stride = first_stride if number == 0 and not (cifar and stage == 1) else 1
                features.append(InvertedResidual(present, channels, stride, expansion, cifar=cifar))
                present = channels
        features.append(_unit(present, last, 1, cifar=cifar))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        dropout = nn.Identity() if cifar else nn.Dropout(0.2)
        self.classifier = nn.Sequential(dropout, nn.Linear(last, num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, classes) of images (m, channels, height, width)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def _unit(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    *,
    cifar: bool,
) -> nn.Sequential:
    """Convolution, batch-norm, activation."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU() if cifar else nn.ReLU6(),
    )
