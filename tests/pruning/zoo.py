"""Small networks of the kinds that users bring, each with an example batch; for all tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = tuple[nn.Module, Tensor]


class BasicBlock(nn.Module):
    """ResNet18's block, with torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """ResNet50's block; with ``groups`` ResNeXt's."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    def __init__(self, width: int, *blocks: nn.Module, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(outputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


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


class Excitation(nn.Module):
    """Squeeze-and-excitation: every channel is scaled by a function of all channels' means."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(functional.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * functional.hardsigmoid(scale)


class InvertedResidual(nn.Module):
    """MobileNetV2's block; with ``excite`` MobileNetV3's."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int, excite: int = 0):
        super().__init__()
        hidden = inputs * expand
        depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        layers = [depthwise, nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)]
        if excite:
            layers.append(Excitation(hidden, excite))
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        if expand > 1:
            pointwise = nn.Conv2d(inputs, hidden, 1, bias=False)
            layers = [pointwise, nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True), *layers]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 8, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class UNet(nn.Module):
    """Two levels joined by concatenation; ``transposed`` upsamples with a convolution."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 1, 1)
        self.bottom = nn.Conv2d(8, 10, 3, 1, 1)
        self.up = nn.ConvTranspose2d(10, 10, 2, 2) if transposed else nn.Upsample(scale_factor=2)
        self.join = nn.Conv2d(18, 6, 3, 1, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = functional.relu(self.down2(functional.relu(self.down1(x))))
        low = self.up(functional.relu(self.bottom(functional.max_pool2d(skip, 2))))
        return self.head(functional.relu(self.join(torch.cat([skip, low], 1))))


class Shared(nn.Module):
    """One convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.conv, self.fc = nn.Conv2d(8, 12, 3, 1, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.twice(functional.relu(self.stem(x))))
        x = functional.relu(self.conv(functional.relu(self.twice(x))))
        return self.fc(x.mean((2, 3)))


def images(size: int = 8, channels: int = 3) -> Tensor:
    return torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(0))


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


def stage(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def plain_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 5),
    )  # fmt: skip


def vgg() -> nn.Module:
    features = [*stage(3, 8), *stage(8, 8), nn.MaxPool2d(2), *stage(8, 16), *stage(16, 16)]
    classifier = [nn.Linear(16 * 4, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 5)]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *classifier)


def resnet18() -> nn.Module:
    blocks = BasicBlock(8, 8, 1), BasicBlock(8, 16, 2), BasicBlock(16, 16, 1)
    return ResNet(8, *blocks, outputs=16)


def resnet50(groups: int = 1) -> nn.Module:
    blocks = (
        Bottleneck(8, 4, 16, 1, groups),
        Bottleneck(16, 4, 16, 1, groups),
        Bottleneck(16, 8, 32, 2, groups),
    )
    return ResNet(8, *blocks, outputs=32)


def mobilenet(excite: int = 0) -> nn.Module:
    blocks = (
        InvertedResidual(8, 8, 1, expand=1),
        InvertedResidual(8, 12, 2, expand=3, excite=excite),
        InvertedResidual(12, 12, 1, expand=3, excite=excite),
    )
    return nn.Sequential(*stage(3, 8), *blocks, *stage(12, 20), *head(20))


def densenet() -> nn.Module:
    dense = [DenseLayer(8, 4), DenseLayer(12, 4), DenseLayer(16, 4)]
    transition = [nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1), nn.AvgPool2d(2)]
    last = [DenseLayer(10, 4), nn.BatchNorm2d(14), nn.ReLU()]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), *dense, *transition, *last, *head(14))


def mlp() -> nn.Module:
    layers = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.GELU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(16, 5))


def zero_pad_resnet() -> nn.Module:
    blocks = [ZeroPadBlock(8, 8, 1), ZeroPadBlock(8, 16, 2), ZeroPadBlock(16, 16, 1)]
    return ResNet(8, *blocks, outputs=16)


def ten_networks() -> dict[str, Network]:
    """The kinds that every release is shown on; the residual network in both its forms."""
    torch.manual_seed(0)
    return {
        "plain CNN": (plain_cnn(), images()),
        "VGG with BN": (vgg(), images()),
        "ResNet18": (resnet18(), images()),
        "ResNet50": (resnet50(), images()),
        "MobileNetV2": (mobilenet(), images()),
        "DenseNet": (densenet(), images()),
        "grouped convolution": (resnet50(groups=2), images()),
        "squeeze-and-excitation": (mobilenet(excite=6), images()),
        "U-Net": (UNet(transposed=False), images()),
        "MLP": (mlp(), images(channels=1)),
        "shared layer": (Shared(), images()),
    }
