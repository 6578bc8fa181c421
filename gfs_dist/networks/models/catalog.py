"""Deep networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from gfs_dist.errors import ConfigError
from gfs_dist.networks.models.mobilenet_v2 import MobileNetV2
from gfs_dist.networks.models.resnet import BasicBlock, Bottleneck, CifarResNet, ResNet

_RESNETS = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
}

CATALOG: dict[str, Callable[[int, int], nn.Module]] = {
    **{name: partial(make, cifar=False) for name, make in _RESNETS.items()},
    "mobilenet_v2": partial(MobileNetV2, cifar=False),
    **{f"{name}_cifar": partial(make, cifar=True) for name, make in _RESNETS.items()},
    "mobilenet_v2_cifar": partial(MobileNetV2, cifar=True),
    "resnet20_cifar": partial(CifarResNet, 3),
    "resnet56_cifar": partial(CifarResNet, 9),
}
"""Constructors by name; their arguments are the numbers of classes and of input channels."""


def make(name: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The network ``name`` of :data:`CATALOG` with fresh weights of torch's global generator.

    Raises:
        ConfigError: there is no such network, or a count below 1.
    """
    if name not in CATALOG:
        raise ConfigError(f"model: found {name!r}, accepted {', '.join(CATALOG)}")
    for key, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ConfigError(f"model={name}: {key}: found {value}, accepted 1 or more")
    return CATALOG[name](num_classes, in_channels)
