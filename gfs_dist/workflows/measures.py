"""Measures networks: loss, accuracy, sizes and latencies, of two layers and of more."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor, nn

from gfs_dist import data, networks
from gfs_dist.data import Images
from gfs_dist.networks import TwoLayer
from gfs_dist.records import LatencyRow, Measured
from gfs_dist.workflows.two_layer import Inputs

BATCH = 64
REPEATS, LARGE_REPEATS = 30, 5
"""How often one input, and a large batch, is timed: that takes seconds in a large network."""

OnBatch = Callable[[int, int], None]
"""Called with the number of batches of the test split that were seen, from 0 on, and of all."""


def measure_two_layer(network: TwoLayer, inputs: Inputs) -> Measured:
    """Loss on the training split, accuracy on the test split, multiply-adds, parameters."""
    dataset = inputs.dataset()
    x, target = inputs()
    test_target = data.target(dataset.labels_test, inputs.objective)
    return {
        "loss": networks.mean_loss(networks.outputs(network, x), target, inputs.objective),
        "accuracy": networks.accuracy(networks.outputs(network, dataset.x_test), test_target),
        "macs": networks.count_macs(network, x[:1]),
        "params": networks.count_params(network),
    }


@dataclass(frozen=True)
class Measures:
    """Measures deep networks that are pruned: all of them on the same images.

    Attributes:
        rows: of the calibration images in the training split.
        device: where networks are measured.
    """

    images: Images
    rows: Tensor
    device: torch.device

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Calibration images and labels, as networks take them."""
        for part in self.rows.split(BATCH):
            yield self.images.inputs(self.images.x_train[part]), self.images.labels_train[part]

    def accuracy(self, network: nn.Module, on_batch: OnBatch) -> float:
        return self._accuracy(self._laid_out(network), on_batch)

    def facts(
        self, network: nn.Module, on_batch: OnBatch, accuracy: float | None = None
    ) -> Measured:
        """Loss over the calibration images, accuracy on the test split unless known, sizes.

        Raises:
            NonFiniteError: an output is NaN or infinite; names the layer.
            DataError: a label that has no output.
        """
        placed = self._laid_out(network)
        return {
            "accuracy": self._accuracy(placed, on_batch) if accuracy is None else accuracy,
            "loss": networks.classify(placed, self.batches()).loss,
            **sizes(placed, self.images),
        }

    def latencies(self, *compared: nn.Module) -> list[list[LatencyRow]]:
        """Rows for batch 1 and a large batch, of each network.

        They are timed in turn, so that what else the machine does meets all of them.
        """
        turns = zip(*(speeds(self._placed(net), self.images) for net in compared), strict=True)
        return [list(of_one) for of_one in zip(*turns, strict=True)]

    def _placed(self, network: nn.Module) -> nn.Module:
        """On the device; ``network`` itself stays where it is."""
        if networks.device_of(network).type == self.device.type:
            return network
        return copy.deepcopy(network).to(self.device)

    def _accuracy(self, placed: nn.Module, on_batch: OnBatch) -> float:
        parts = batched_rows(placed, self.images)
        on_batch(0, len(parts))
        batches = batches_of(self.images, parts, lambda done: on_batch(done, len(parts)))
        return networks.classify(placed, batches).accuracy

    def _laid_out(self, network: nn.Module) -> nn.Module:
        """A copy on the device, as many images go through it soonest."""
        placed = copy.deepcopy(network).to(self.device)
        example = self.images.inputs(self.images.x_test[:1]).to(self.device)
        networks.prefer_channels_last(placed, example)
        return placed


def sizes(network: nn.Module, images: Images) -> Measured:
    """Multiply-adds for one input, and parameters."""
    example = images.inputs(images.x_test[:1]).to(networks.device_of(network))
    return {
        "macs": networks.count_macs(network, example),
        "params": networks.count_params(network),
    }


def speeds(network: nn.Module, images: Images) -> Iterator[LatencyRow]:
    """At batch 1 and at a large batch, or as many test images as there are."""
    device = networks.device_of(network)
    for size, repeats in ((1, REPEATS), (BATCH, LARGE_REPEATS)):
        x = images.inputs(images.x_test[:size]).to(device)
        yield latency_row(networks.latency(network, x, repeats), device)


def latency_row(found: networks.Latency, device: torch.device) -> LatencyRow:
    """A latency as reports have it."""
    return cast(LatencyRow, {**asdict(found), "device": device.type})


def batched_rows(
    network: nn.Module, images: Images, rows: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Rows of the test split, all of it or ``rows``, parted into batches that fill the machine."""
    rows = torch.arange(len(images.x_test)) if rows is None else rows
    example = images.inputs(images.x_test[:1]).to(networks.device_of(network))
    return rows.split(networks.batch_size(network, example))


def batches_of(
    images: Images, parts: tuple[Tensor, ...], on_batch: Callable[[int], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of those rows; ``on_batch`` is told how many batches were taken."""
    for number, part in enumerate(parts, 1):
        yield images.inputs(images.x_test[part]), images.labels_test[part]
        on_batch(number)
