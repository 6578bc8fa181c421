"""Networks as users bring them, each with something that a description has to get right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, size: int = 3, **more: object) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **more),  # type: ignore[arg-type]
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Dense(nn.Module):
    """Concatenation, several uses of one result, a functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.grow = nn.ModuleList([conv(8, 4), conv(12, 4)])
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for layer in self.grow:
            found.append(layer(torch.cat(found, 1)))
        pooled = torch.cat(found, dim=1).mean((2, 3))
        return self.head(functional.dropout(pooled, 0.5, training=self.training))


@fx.wrap
def dropped(x: Tensor, share: float, training: bool) -> Tensor:
    """A function that asks not to be looked into, as torchvision's stochastic depth does."""
    if not training or share == 0.0:
        return x
    return x * (torch.rand_like(x[:, :1]) > share)


class SqueezeExcite(nn.Module):
    """A gate from pooled features, scaled sum, negative axes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, stride=2)
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(
            self.up(functional.silu(self.down(functional.adaptive_avg_pool2d(x, 1))))
        )
        x = x + dropped(self.scale * (x * gate), 0.0, self.training)
        return self.head(x.flatten(2).amax(-1))


class Padded(nn.Module):
    """Slices, functional padding and interpolation, view by size, split, chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 8, 3, groups=2)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]))
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x - self.mean.view(1, 3, 1, 1)))
        x = functional.pad(x[:, :, ::2, ::2], (1, 1, 1, 1, 2, 2))
        left, right = self.second(x).chunk(2, dim=1)
        x = torch.cat([part * (len(part.shape) - 3) for part in (right, left)], 1)
        one, rest = torch.split(x, [1, 7], dim=1)
        rest = torch.stack([part + 1 for part in rest.view(*rest.shape).unbind(1)], 1)
        x = functional.interpolate(torch.cat((one, rest), 1), scale_factor=2.0, mode="nearest")
        x = functional.max_pool2d(x, x.shape[-2:])
        return self.head(x.view(x.size(0), -1))


class UNet(nn.Module):
    """A skip over a transposed convolution; the size comes from another result."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = conv(3, 4), conv(4, 8, stride=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        down = self.down(x)
        up = functional.interpolate(self.up(self.deep(down)), size=down.shape[2:], mode="bilinear")
        return {"map": self.out(torch.cat([up, down], dim=1)), "skip": down}


class Shared(nn.Module):
    """A layer called twice, one under two names, tied weights, a layer that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 12)
        self.again = self.inner
        self.encode, self.decode = nn.Linear(12, 6), nn.Linear(6, 12)
        self.decode.weight = nn.Parameter(torch.randn(12, 6))
        self.tied = nn.Linear(12, 6)
        self.tied.weight = self.encode.weight
        self.code = nn.Linear(2, 2)
        self.register_buffer("offset", torch.arange(12.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(torch.tanh(self.inner(x))) + self.offset
        return self.tied(self.decode(self.encode(x)) * torch.tensor([0.5]))


class Conditions(nn.Module):
    """Conditions on shapes, a size as a whole number, unpacked sizes, shuffled channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, 2, padding=1), nn.Conv2d(8, 8, 1, groups=4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != 3:
            raise ValueError("images only")
        if x.shape[-1] % 2:
            x = functional.pad(x, (0, 1))
        assert x.shape[-2] > 2, "too small"
        x = torch.relu(self.stem(x))
        if x.shape[2] > 10:
            x = functional.avg_pool2d(x, 2)
        batch, channels, height, width = x.size()
        x = self.deep(x).view(batch, 4, channels // 4, height, width).transpose(1, 2)
        x = x.reshape(batch, -1, height, width)[..., : int(width * 0.5)]
        return self.head(x.mean(dim=[2, 3]))


class OneWay(nn.Module):
    """Control flow that depends on data: it cannot be recorded."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(12, hidden, bias=False), nn.BatchNorm1d(hidden)
        self.second = nn.Linear(hidden, 4)
        self.register_buffer("mask", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        x = torch.relu(x) if x.sum() > 0 else torch.tanh(x)
        return self.second(x) * self.mask


class Wobbling(nn.Module):
    """Another path while training, as stochastic depth has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x * torch.rand(1) if self.training else x


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 7), nn.GELU(), nn.Dropout(0.2), nn.Linear(7, 4)
    )


IMAGES = (3, 8, 8)
FEATURES = (12,)
TRACED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (Dense, IMAGES),
    "squeeze_excite": (SqueezeExcite, IMAGES),
    "padded": (Padded, IMAGES),
    "unet": (UNet, IMAGES),
    "conditions": (Conditions, IMAGES),
    "shared": (Shared, FEATURES),
    "mlp": (mlp, FEATURES),
}


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with every number drawn anew: fresh batch-norms would hide their statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.ndim > 1:
                drawn = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(drawn / tensor[0].numel() ** 0.5)
            elif tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network.eval()
