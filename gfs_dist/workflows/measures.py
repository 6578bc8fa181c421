"""Measures networks: loss, accuracy, sizes and latencies, of two layers and of more."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from gfs_dist import data, networks
from gfs_dist.data import Images, calibration_rows
from gfs_dist.networks import Classified, TwoLayer
from gfs_dist.records import LatencyRow, Measured
from gfs_dist.workflows.two_layer import Inputs

BATCH = 64
REPEATS, LARGE_REPEATS = 30, 5
"""How often one input, and a large batch, is timed: that takes seconds in a large network."""

OnBatch = Callable[[int, int], None]
"""Called with the number of batches of all splits that were seen, from 0 on, and of all."""


class Split(NamedTuple):
    """Rows of inputs and labels that deep networks are measured on."""

    x: Tensor
    labels: Tensor
    rows: Tensor


def named(found: Mapping[str, Classified]) -> Measured:
    """Loss and accuracy of each split, as records name them."""
    facts: dict[str, float] = {}
    for split, (loss, accuracy) in found.items():
        name = "accuracy" if split == "test" else f"accuracy_{split}"
        facts |= {name: accuracy, f"loss_{split}": loss}
    return cast(Measured, facts)


def measure_two_layer(network: TwoLayer, inputs: Inputs) -> Measured:
    """Loss and accuracy on the data that is pruned on and on other data, multiply-adds, parameters.

    All samples are measured on, in float64 whatever the network's dtype: as its path was searched.
    """
    network = copy.deepcopy(network).double()

    def on(x: Tensor, target: Tensor) -> Classified:
        found = networks.outputs(network, x)
        loss = networks.mean_loss(found, target, inputs.objective)
        return Classified(loss, networks.accuracy(found, target))

    dataset = inputs.dataset()
    test = dataset.x_test, data.target(dataset.labels_test, inputs.objective)
    found = {"test": on(*test), "train": on(*inputs())}
    if dataset.validation is not None:
        x, labels = dataset.validation
        found["validation"] = on(x, data.target(labels, inputs.objective))
    return {
        "loss": found["train"].loss,
        **named(found),
        "macs": networks.count_macs(network, dataset.x_test[:1]),
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
        """Share of the test split."""
        laid_out = self._laid_out(network)
        test = {"test": splits(self.images)["test"]}
        return classify_splits(laid_out, self.images, test, on_batch)["test"].accuracy

    def facts(
        self, network: nn.Module, on_batch: OnBatch, known: Measured | None = None
    ) -> Measured:
        """Loss and accuracy over the calibration images, and on the test split; sizes.

        Args:
            known: what training has measured on the test split: it is not measured again.

        Raises:
            NonFiniteError: an output is NaN or infinite; names the layer.
            DataError: a label that has no output.
        """
        placed = self._laid_out(network)
        if not known:
            known = named(classify_splits(placed, self.images, splits(self.images), on_batch))
        train = networks.classify(placed, self.batches())
        return {
            **known,
            "loss": train.loss,
            **named({"train": train}),
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


def splits(images: Images) -> dict[str, Split]:
    """What no network is trained or pruned on, whole, by name."""
    parts = {"test": (images.x_test, images.labels_test), "validation": images.validation}
    return {name: Split(*part, torch.arange(len(part[1]))) for name, part in parts.items() if part}


def training_split(images: Images, seed: int) -> Split:
    """Training images on which networks are measured that are not pruned.

    All that may be pruned on, or as many as the test split has, of each class as many as of any
    other: measuring takes at most as long on them as on the test split.
    """
    rows = calibration_rows(images.labels_train, len(images.x_test), seed, images.prune_rows)
    return Split(images.x_train, images.labels_train, rows)


def classify_splits(
    network: nn.Module, images: Images, given: Mapping[str, Split], on_batch: OnBatch
) -> dict[str, Classified]:
    """Loss and accuracy on each of the splits, in batches that fill the machine.

    Args:
        images: how inputs are normalised.
        given: by name; none of them empty.
    """
    example = images.inputs(images.x_test[:1]).to(networks.device_of(network))
    size, done = networks.batch_size(network, example), itertools.count(1)
    parts = {name: split.rows.split(size) for name, split in given.items()}
    total = sum(map(len, parts.values()))

    def batches(name: str) -> Iterator[tuple[Tensor, Tensor]]:
        x, labels, _ = given[name]
        for part in parts[name]:
            yield images.inputs(x[part]), labels[part]
            on_batch(next(done), total)

    on_batch(0, total)
    return {name: networks.classify(network, batches(name)) for name in given}
