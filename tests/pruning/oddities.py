"""Networks with something special in them, each with an example batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.pruning.zoo import Network, UNet, head, images, zero_pad_resnet


class Call(nn.Module):
    """Modules, and a forward pass given as a function of them and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], /, **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand, self.project = nn.Linear(channels, 16), nn.Linear(16, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.project(functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


def conv(inputs: int, outputs: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def sequence(x: Tensor) -> Tensor:
    """Pixels as steps of a sequence: (N, C, H, W) to (N, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def recurrent(kind: type[nn.RNNBase]) -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        steps = sequence(functional.relu(net.conv(x)))
        return net.head(functional.relu(net.fc(net.rnn(steps)[0][:, -1])))

    rnn = kind(8, 6, batch_first=True)
    return Call(run, conv=conv(3, 8), rnn=rnn, fc=nn.Linear(6, 7), head=nn.Linear(7, 5))


def packed() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        steps = sequence(functional.relu(net.conv(x)))
        lengths = torch.full((len(x),), steps.shape[1])
        pack = nn.utils.rnn.pack_padded_sequence(steps, lengths, batch_first=True)
        last = nn.utils.rnn.pad_packed_sequence(net.rnn(pack)[0], batch_first=True)[0][:, -1]
        return net.head(functional.relu(net.fc(last)))

    rnn = nn.GRU(8, 6, batch_first=True)
    return Call(run, conv=conv(3, 8), rnn=rnn, fc=nn.Linear(6, 7), head=nn.Linear(7, 5))


def attention() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        steps = sequence(net.conv(x))
        mixed = net.mix(steps, steps, steps)[0]
        return net.head(functional.gelu(net.fc(mixed))).mean(1)

    mix = nn.MultiheadAttention(8, 2, batch_first=True)
    return Call(run, conv=conv(3, 8), mix=mix, fc=nn.Linear(8, 16), head=nn.Linear(16, 5))


def shuffled(net: Any, x: Tensor) -> Tensor:
    y = functional.relu(net.first(x))
    y = y.view(len(y), 2, y.shape[1] // 2, 64).transpose(1, 2).reshape(y.shape)
    return net.head(net.second(y).mean((2, 3)))


def gated(net: Any, x: Tensor) -> Tensor:
    one, two = net.first(x).chunk(2, 1)
    return net.head((one * torch.sigmoid(two)).mean((2, 3)))


def two_branches(net: Any, x: Tensor) -> Tensor:
    one, two = functional.relu(net.one(x)), functional.relu(net.two(x))
    return net.head(torch.cat([one.flatten(1), two.flatten(1)], 1))


def features_too(net: Any, x: Tensor) -> dict[str, Any]:
    y = net.first(x)
    return {"features": y, "scores": [net.head(functional.relu(net.second(y)).mean((2, 3)))]}


def beside_the_image(net: Any, x: Tensor) -> Tensor:
    return net.head(torch.cat([x, functional.relu(net.first(x)), net.second(x)], 1))


def onto_the_image(net: Any, x: Tensor) -> Tensor:
    return net.head((x + net.second(functional.relu(net.first(x)))).flatten(1))


def onto_a_concatenation(net: Any, x: Tensor) -> Tensor:
    y = net.whole(functional.relu(net.stem(x)))
    y = y + torch.cat([net.one(functional.relu(net.side(x))), net.two(x)], 1)
    return net.head(functional.relu(y)).mean((2, 3))


def dropped(net: Any, x: Tensor) -> Tensor:
    return net.head(functional.pad(net.first(x), (0, 0, 0, 0, -8, 8))).mean((2, 3))


def spatial_attention(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    seen = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    return net.second(y * torch.sigmoid(net.attend(seen))).mean((2, 3))


def maxout(net: Any, x: Tensor) -> Tensor:
    return net.head(torch.maximum(net.one(x), net.two(x)).mean((2, 3)))


def generated(net: Any, x: Tensor) -> Tensor:
    return net.head(functional.relu(net.first(x)).view(-1, 8, 4, 4))


def written_sizes(net: Any, x: Tensor) -> Tensor:
    return net.head(functional.relu(net.first(x)).view(-1, 512))


def at_random(net: Any, x: Tensor) -> Tensor:
    return net.head(functional.dropout(functional.relu(net.first(x)), 0.5).mean((2, 3)))


def behind_its_back(net: Any, x: Tensor) -> Tensor:
    y = functional.relu(net.first(x)).mean((2, 3))
    return net.head(y) + net.second(y.detach())


def features_detached(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = functional.relu(net.first(x)).mean((2, 3))
    return net.head(y), y.detach()


def not_both(net: Any, x: Tensor) -> Tensor:
    if net.first.out_channels < 8 and net.second.out_channels < 6:
        raise NotImplementedError("only one of them may be narrow")
    y = functional.relu(net.second(functional.relu(net.first(x))))
    return net.head(y.mean((2, 3)))


def in_float32(net: Any, x: Tensor) -> Tensor:
    return net.head(functional.relu(net.first(x.float())).mean((2, 3)))


def plain(net: Any, x: Tensor) -> Tensor:
    return net.head(functional.relu(net.first(x)).mean((2, 3)))


def gated_and_added(net: Any, x: Tensor) -> Tensor:
    stream = net.stem(x)
    y = net.first(functional.relu(stream))
    scale = torch.sigmoid(net.gate(y.mean((2, 3)))).view(len(y), -1, 1, 1)
    return net.head((y * scale + net.shortcut(stream)).mean((2, 3)))


def tied() -> nn.Module:
    network = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
        nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 5),
    )  # fmt: skip
    network[4].weight = network[2].weight
    return network


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(conv(3, 8), norm, nn.ReLU(), conv(8, 6), nn.ReLU(), *head(6))


def swiglu() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.down(functional.silu(net.gate(x)) * net.up(x))

    return Call(run, gate=nn.Linear(6, 8), up=nn.Linear(6, 8), down=nn.Linear(8, 5))


def conv1d() -> nn.Module:
    norm = nn.InstanceNorm1d(6, affine=True)
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3), norm, nn.PReLU(6),
        nn.Conv1d(6, 7, 1), nn.PReLU(), nn.Flatten(), nn.Linear(7 * 12, 5),
    )  # fmt: skip


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 8, 5)
    )


def weight_normed() -> nn.Module:
    first = nn.utils.parametrizations.weight_norm(conv(3, 8))
    return nn.Sequential(first, nn.ReLU(), conv(8, 6), nn.ReLU(), *head(6))


class Scaled(nn.Module):
    """One number for all channels, or one for each."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def sharing(shared: nn.Module, *widths: int) -> nn.Module:
    """Convolutions of some widths, with one module behind each of them, and a flatten."""

    def run(net: Any, x: Tensor) -> Tensor:
        for layer in net.layers:
            x = net.shared(layer(x))
        return net.head(net.shared(x).flatten(1))

    layers = [conv(i, o) for i, o in itertools.pairwise((3, *widths))]
    return Call(
        run, layers=nn.ModuleList(layers), shared=shared, head=nn.Linear(widths[-1] * 64, 5)
    )


def shared_by_name() -> nn.Module:
    """The input goes by name to what is called twice."""

    def run(net: Any, x: Tensor) -> Tensor:
        x = net.act(input=net.second(net.act(input=net.first(x))))
        return net.head(x.mean((2, 3)))

    layers = {"first": conv(3, 8), "second": conv(8, 6), "head": nn.Linear(6, 5)}
    return Call(run, **layers, act=nn.PReLU())


def upsampled(kind: type[nn.Module], first: nn.Module, groups: int) -> nn.Module:
    """A transposed convolution with groups between two layers."""

    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(functional.relu(net.up(net.first(x))).flatten(2).mean(2))

    up = kind(8, 8, 2, stride=2, groups=groups)
    return Call(run, first=first, up=up, head=nn.Linear(8, 4))


class Shuffling(nn.Module):
    """A unit of ShuffleNetV2: half of the channels pass, then both halves are interleaved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.deep = nn.Conv2d(channels // 2, 6, 1), conv(6, 6, groups=6)
        self.expand = nn.Conv2d(6, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        passed, changed = x.chunk(2, 1)
        changed = self.expand(self.deep(functional.relu(self.reduce(changed))))
        x = torch.cat([passed, functional.relu(changed)], 1)
        return x.view(len(x), 2, -1, 8, 8).transpose(1, 2).reshape(x.shape)


class Downsampling(nn.Module):
    """Its unit between two stages: both branches read all channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.left = nn.Sequential(conv(inputs, inputs, groups=inputs), conv(inputs, outputs // 2))
        self.right = nn.Sequential(conv(inputs, 7), nn.ReLU(), conv(7, outputs // 2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1)
        return x.view(len(x), 2, -1, 8, 8).transpose(1, 2).reshape(x.shape)


def shuffle_net(units: int) -> nn.Module:
    return nn.Sequential(
        *(conv(3, 16), nn.ReLU(), *(Shuffling(16) for _ in range(units)), Downsampling(16, 20)),
        *(*(Shuffling(20) for _ in range(units)), nn.Conv2d(20, 9, 1), nn.ReLU(), *head(9)),
    )


def other_networks() -> dict[str, Network]:
    torch.manual_seed(0)
    linear = nn.Linear
    three = {"first": conv(3, 8), "second": conv(8, 6), "head": linear(6, 5)}
    two = {"first": conv(3, 8), "head": linear(8, 5)}
    beside = {"first": conv(3, 8), "second": conv(3, 5), "head": conv(16, 2)}
    attend = {"first": conv(3, 8), "attend": conv(2, 1), "second": conv(8, 5)}
    joined = {"stem": conv(3, 7), "whole": conv(7, 8), "side": conv(3, 6), "one": conv(6, 4)}
    joined |= {"two": conv(3, 4), "head": conv(8, 5)}
    branches = {"one": conv(3, 4), "two": conv(3, 6, stride=2), "head": linear(352, 5)}
    return {
        "zero-padded ResNet": (zero_pad_resnet(), images()),
        "transposed convolution": (UNet(transposed=True), images()),
        "Dropout": (nn.Sequential(conv(3, 8), nn.Dropout2d(), conv(8, 6), *head(6)), images()),
        "LayerNorm": (
            nn.Sequential(linear(4, 8), nn.LayerNorm(8), linear(8, 5)),
            images()[0, 0, :, :4],
        ),
        "GroupNorm": (normed(nn.GroupNorm(4, 8)), images()),
        "ConvNeXt": (nn.Sequential(conv(3, 8), ConvNeXtBlock(8), *head(8)), images()),
        "GRU": (recurrent(nn.GRU), images()),
        "LSTM": (recurrent(nn.LSTM), images()),
        "packed GRU": (packed(), images()),
        "attention": (attention(), images()),
        "channel shuffle": (
            Call(shuffled, first=conv(3, 8), second=conv(8, 6), head=linear(6, 5)),
            images(),
        ),
        "gate by chunk": (Call(gated, first=conv(3, 12), head=linear(6, 5)), images()),
        "gate by two layers": (swiglu(), torch.randn(3, 4, 6)),
        "gate before a sum": (
            Call(
                gated_and_added,
                stem=conv(3, 7),
                first=conv(7, 8),
                gate=linear(8, 8),
                shortcut=conv(7, 8),
                head=linear(8, 5),
            ),
            images(),
        ),
        "flattened branches": (Call(two_branches, **branches), images()),
        "dictionary of outputs": (Call(features_too, **three), images()),
        "concatenated to the image": (Call(beside_the_image, **beside), images()),
        "added to the image": (
            Call(onto_the_image, first=conv(3, 8), second=conv(8, 3), head=linear(192, 5)),
            images(),
        ),
        "added to a concatenation": (Call(onto_a_concatenation, **joined), images()),
        "dropped channels": (Call(dropped, first=conv(3, 8), head=conv(8, 5)), images()),
        "spatial attention": (Call(spatial_attention, **attend), images()),
        "pixel shuffle": (nn.Sequential(conv(3, 8), nn.PixelShuffle(2), conv(2, 5)), images()),
        "maxout": (Call(maxout, one=conv(3, 8), two=conv(3, 8), head=linear(8, 5)), images()),
        "generator": (Call(generated, first=linear(6, 128), head=conv(8, 3)), torch.randn(3, 6)),
        "sizes in the code": (Call(written_sizes, first=conv(3, 8), head=linear(512, 5)), images()),
        "always random": (Call(at_random, **two), images()),
        "detached reader": (Call(behind_its_back, **two, second=linear(8, 5)), images()),
        "detached output": (Call(features_detached, **two), images()),
        "sound one by one": (Call(not_both, **three), images()),
        "float32 in the code": (Call(in_float32, **two), images()),
        "unused layer": (Call(plain, **two, unused=conv(3, 4)), images()),
        "softmax over channels": (normed(nn.Softmax(1)), images()),
        "tied weights": (tied(), torch.randn(3, 4)),
        "weight norm": (weight_normed(), images()),
        "one dimension": (conv1d(), torch.randn(3, 3, 16)),
        "three dimensions": (conv3d(), torch.randn(3, 1, 4, 4, 4)),
        "depthwise first": (
            nn.Sequential(conv(3, 3, groups=3), nn.Conv2d(3, 8, 1), nn.ReLU(), *head(8)),
            images(),
        ),
        "depth multiplier": (nn.Sequential(conv(3, 4), conv(4, 8, groups=4), *head(8)), images()),
        "one channel": (nn.Sequential(conv(3, 1), nn.ReLU(), conv(1, 4), *head(4)), images()),
        "shared PReLU": (sharing(nn.PReLU(), 10, 8), images()),
        "PReLU called by name": (shared_by_name(), images()),
        "PReLU shared by three": (sharing(nn.PReLU(), 10, 8, 6), images()),
        "shared PReLU of channels": (sharing(nn.PReLU(8), 8, 8), images()),
        "shared dropout": (sharing(nn.Dropout(), 10, 8, 6), images()),
        "shared identity": (sharing(nn.Identity(), 10, 8, 6), images()),
        "shared factor": (sharing(Scaled(), 10, 8, 6), images()),
        "shared factor of channels": (sharing(Scaled(8, 1, 1), 8, 8), images()),
        "shared norm": (sharing(nn.BatchNorm2d(8), 8, 8), images()),
        "shared norm without weights": (
            sharing(nn.BatchNorm2d(8, affine=False, track_running_stats=False), 8, 8, 8),
            images(),
        ),
        "shared statistics": (sharing(nn.BatchNorm2d(8, affine=False), 8, 8), images()),
        "shared layer norm": (sharing(nn.LayerNorm(8), 8, 8), images()),
        "upsampled in one dimension": (
            upsampled(nn.ConvTranspose1d, nn.Conv1d(3, 8, 3), 8),
            torch.randn(3, 3, 4),
        ),
        "upsampled in two": (
            upsampled(nn.ConvTranspose2d, nn.Conv2d(3, 8, 3), 8),
            torch.randn(3, 3, 4, 3),
        ),
        "upsampled in three": (
            upsampled(nn.ConvTranspose3d, nn.Conv3d(3, 8, 3), 8),
            torch.randn(3, 3, 4, 3, 3),
        ),
        "upsampled in groups": (
            upsampled(nn.ConvTranspose2d, nn.Conv2d(3, 8, 3), 4),
            torch.randn(3, 3, 4, 3),
        ),
        "ShuffleNet": (shuffle_net(3), images()),
        "ShuffleNet of more units": (shuffle_net(5), images()),
        "one layer": (nn.Sequential(nn.Flatten(), linear(192, 5)), images()),
        "words": (
            nn.Sequential(nn.Embedding(10, 6), linear(6, 8), nn.ReLU(), linear(8, 5)),
            torch.randint(10, (3, 7)),
        ),
    }
