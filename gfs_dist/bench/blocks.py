"""What ``suite=appendix_d`` searches: layers of a network with random weights, on random images.

Times do not depend on what the weights and images are, only on their shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.bench.suite import Sizes
from gfs_dist.config import commands as schema
from gfs_dist.config.overrides import nearest
from gfs_dist.errors import ConfigError
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.networks import evaluating
from gfs_dist.networks.measure.evaluation import run_with_hook
from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.pruning.structure.structure import Layer
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.workflows.stored_networks import fresh_network, named_network

CLASSES = {"imagenet": 1000, "cifar": 10}


@dataclass(frozen=True)
class BlockSizes(Sizes):
    """How much is measured.

    Attributes:
        batch: images of a mini-batch of ``network_loss``.
        steps: picks; None for all channels.
        candidates: scored at each step of ``network_loss``; None for all.
    """

    image_size: int
    images: int
    batch: int
    steps: int | None
    candidates: int | None


PRESETS = {
    "smoke": BlockSizes((1, 2, 4), 1, 32, 8, 8, 3, 8),
    "paper": BlockSizes((1, 2, 4), 3, 224, 128, 128, None, 50),
    "cluster": BlockSizes((1, 2, 4, 8), 3, 224, 128, 128, None, 50),
}


@dataclass(frozen=True)
class Block:
    """A layer to search.

    Attributes:
        layer: of the network.
        size: of the images that its channels are, ``56x56``; empty for hidden units.
        alike: layers of the network with as many channels of this size, this one included.
    """

    layer: Layer
    size: str
    alike: tuple[Layer, ...]

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def words(self) -> str:
        """``layer1.2.conv1, 64 at 56x56``."""
        at = f" at {self.size}" if self.size else ""
        return f"{self.name}, {self.layer.num_candidates}{at}"


@dataclass(frozen=True)
class BlockProblem:
    """A network, its data and the blocks that are searched.

    Attributes:
        network: evaluating.
        x: images, float32 (m, channels, size, size).
        labels: int64 (m,).
        blocks: in forward order.
        seed: of mini-batches and candidates.
    """

    network: nn.Module
    x: Tensor
    labels: Tensor
    blocks: tuple[Block, ...]
    sizes: BlockSizes
    seed: int

    @classmethod
    def of(cls, config: schema.Benchmark) -> BlockProblem:
        """Network, data and blocks that a configuration names.

        Raises:
            ConfigError: there is no such layer, or the network takes no images of this size.
        """
        sizes = PRESETS[config.preset].with_keys(config)
        classes = CLASSES["cifar" if config.model.name.endswith("_cifar") else "imagenet"]
        network = fresh_network(named_network(config.model, classes, 3), config.seed).eval()
        convolutions = [one for one in network.modules() if isinstance(one, nn.Conv2d)]
        if not convolutions:
            raise ConfigError(
                f"model: found {type(network).__name__}, accepted one that reads images"
            )
        generator = torch.Generator().manual_seed(config.seed)
        shape = (sizes.images, convolutions[0].in_channels, sizes.image_size, sizes.image_size)
        x = torch.randn(shape, generator=generator)
        try:
            with evaluating(network):
                classes = network(x[:2]).shape[1]
        except RuntimeError as error:
            line = str(error).splitlines()[0]
            raise ConfigError(
                f"image_size: {config.model.name} fails on {shape[1:]}: {line}"
            ) from error
        labels = torch.randint(classes, (sizes.images,), generator=generator)
        blocks = _chosen(find_blocks(network, x, labels), config.layers)
        return cls(network, x, labels, blocks, sizes, config.seed)

    def settings(self, block: Block, objective: str) -> Settings:
        steps = self.sizes.steps or block.layer.num_candidates
        return Settings(
            objective=objective,
            steps=min(steps, block.layer.num_candidates),
            batch=self.sizes.batch,
            candidates=self.sizes.candidates if objective == "network_loss" else None,
            seed=self.seed,
        )


def find_blocks(network: nn.Module, x: Tensor, labels: Tensor) -> list[Block]:
    """Every prunable layer with the size of its output; two images are read.

    Raises:
        InputError: nothing in the network can be pruned.
    """
    with (
        ScratchFolder("blocks") as folder,
        open_runtime(RuntimeSpec(kind="none", workers=1, device="cpu")) as runtime,
    ):
        batches = [(x[:2], labels[:2])]
        pruner = Pruner.prepare(network, batches, Settings(), runtime, folder / "workspace")
        layers = pruner.structure.layers
    outputs: dict[str, str] = {}

    def note_size(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[name] = "x".join(map(str, output.shape[2:]))

    run_with_hook(network, [x[:2]], note_size)
    shapes = {layer.name: (layer.num_candidates, outputs[layer.name]) for layer in layers}
    return [
        Block(
            layer,
            outputs[layer.name],
            tuple(other for other in layers if shapes[other.name] == shapes[layer.name]),
        )
        for layer in layers
    ]


def _chosen(blocks: Sequence[Block], names: Sequence[str] | None) -> tuple[Block, ...]:
    """The named ones, or the last of each shape."""
    by_name = {block.name: block for block in blocks}
    if names is None:
        last = {(block.layer.num_candidates, block.size): block for block in blocks}
        return tuple(block for block in blocks if block in last.values())
    for name in names:
        if name not in by_name:
            raise ConfigError(
                f"layers: found {name}, accepted {', '.join(by_name)}{nearest(name, by_name)}"
            )
    return tuple(block for block in blocks if block.name in names)
