"""Deep networks by name."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import nn

from gfs_dist.errors import ConfigError
from gfs_dist.networks.models.mobilenet_v2 import MobileNetV2
from gfs_dist.networks.models.resnet import BasicBlock, Bottleneck, CifarResNet, ResNet

MAX_WIDTH = 64
"""Of a network, as a multiple of its own."""


class Maker(Protocol):
    """Makes a network, all its layers ``width`` times as wide."""

    def __call__(self, num_classes: int, in_channels: int, /, *, width: float) -> nn.Module: ...


_RESNETS = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
}

CATALOG: dict[str, Maker] = {
    **{name: partial(make, cifar=False) for name, make in _RESNETS.items()},
    "mobilenet_v2": partial(MobileNetV2, cifar=False),
    **{f"{name}_cifar": partial(make, cifar=True) for name, make in _RESNETS.items()},
    "mobilenet_v2_cifar": partial(MobileNetV2, cifar=True),
    "resnet8_cifar": partial(CifarResNet, 1),
    "resnet20_cifar": partial(CifarResNet, 3),
    "resnet56_cifar": partial(CifarResNet, 9),
}
"""Constructors by name."""


def make(name: str, num_classes: int, in_channels: int = 3, *, width: float = 1.0) -> nn.Module:
    """The network ``name`` of :data:`CATALOG` with fresh weights of torch's global generator.

    Args:
        name: of the network.
        num_classes: numbers that it puts out.
        in_channels: of its images.
        width: times the channels of every layer; 0.5 makes a thin one.

    Raises:
        ConfigError: there is no such network, a count below 1, or a width that is not above 0.
    """
    if name not in CATALOG:
        raise ConfigError(f"model: found {name!r}, accepted {', '.join(CATALOG)}")
    for key, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ConfigError(f"model={name}: {key}: found {value}, accepted 1 or more")
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= MAX_WIDTH:
        found = f"found {str(width)[:60]}, accepted a number above 0 and at most {MAX_WIDTH}"
        raise ConfigError(f"model={name}: width: {found}")
    return CATALOG[name](num_classes, in_channels, width=width)
