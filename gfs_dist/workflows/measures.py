"""Measures networks: loss and quality, sizes and latencies, of two layers and of more."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gfs_dist import data, networks
from gfs_dist.data import DeepData, Texts, calibration_rows
from gfs_dist.networks import Classified, TwoLayer
from gfs_dist.networks.measure.inputs import Batch, as_batch
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
    """Measures deep networks that are pruned: all of them on the same samples.

    Attributes:
        rows: of the calibration samples in the training split.
        device: where networks are measured.
        measure: what tells how well they do: ``accuracy``, or of text ``perplexity``, ``kl``,
            ``cosine``.
    """

    images: DeepData
    rows: Tensor
    device: torch.device
    measure: str = "accuracy"

    def batches(self) -> Iterator[Any]:
        """Calibration samples as networks are pruned on them: images and labels, or text."""
        for part in self.rows.split(BATCH):
            x = self.images.inputs(self.images.x_train[part])
            yield x if isinstance(x, dict) else (x, self.images.labels_train[part])

    def check_numbers(self, network: nn.Module) -> None:
        """Do nothing where a few outputs are numbers.

        Raises:
            NonFiniteError, ShapeError: they are not; see :meth:`facts`.
        """
        split = Split(self.images.x_train, self.images.labels_train, self.rows[:BATCH])
        self._measured(network, {"train": split}, lambda *_: None, network)

    def quality(
        self, network: nn.Module, on_batch: OnBatch, dense: nn.Module | None = None
    ) -> float:
        """How well a network does on the test split."""
        test = {"test": splits(self.images)["test"]}
        measured: Any = self._measured(self._laid_out(network), test, on_batch, dense)
        return float(measured[self.measure])

    def facts(
        self,
        network: nn.Module,
        on_batch: OnBatch,
        known: Measured | None = None,
        dense: nn.Module | None = None,
    ) -> Measured:
        """Loss and quality over the calibration samples, and on the test split; sizes.

        Args:
            known: what training has measured on the test split: it is not measured again.
            dense: what the outputs on text are compared with; None: nothing.

        Raises:
            NonFiniteError: an output is NaN or infinite; names the layer.
            DataError: a label that has no output.
        """
        placed = self._laid_out(network)
        if not known:
            known = self._measured(placed, splits(self.images), on_batch, dense)
        part = Split(self.images.x_train, self.images.labels_train, self.rows)
        if self.measure == "accuracy":
            counted = networks.classify(placed, self.batches())
            train = {"loss": counted.loss, **named({"train": counted})}
        else:
            found = self._measured(placed, {"train": part}, lambda *_: None, None)
            train = {"loss": found.get("loss_train"), "accuracy": None, **found}
        return cast(Measured, {**known, **train, **sizes(placed, self.images)})

    def _measured(
        self,
        network: nn.Module,
        given: Mapping[str, Split],
        on_batch: OnBatch,
        dense: nn.Module | None,
    ) -> Measured:
        return measure_splits(network, self.images, given, on_batch, self.measure, dense)

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
        example = example_of(self.images).to(self.device)
        networks.prefer_channels_last(placed, example)
        return placed


def example_of(samples: DeepData, count: int = 1) -> Batch:
    """A few test samples, or as many as there are, as networks are called with them.

    Rows of text are the calibration's length, whatever they hold.
    """
    x = samples.x_test[:count]
    if isinstance(samples, Texts):
        x = x.where(x >= 0, samples.pad)
    return as_batch(samples.inputs(x))


def sizes(network: nn.Module, images: DeepData) -> Measured:
    """Multiply-adds for one input, and parameters."""
    example = example_of(images).to(networks.device_of(network))
    return {
        "macs": networks.count_macs(network, example),
        "params": networks.count_params(network),
    }


def speeds(network: nn.Module, images: DeepData) -> Iterator[LatencyRow]:
    """At batch 1 and at a large batch, or as many test samples as there are."""
    device = networks.device_of(network)
    for size, repeats in ((1, REPEATS), (BATCH, LARGE_REPEATS)):
        x = example_of(images, size).to(device)
        yield latency_row(networks.latency(network, x, repeats), device)


def latency_row(found: networks.Latency, device: torch.device) -> LatencyRow:
    """A latency as reports have it."""
    return cast(LatencyRow, {**asdict(found), "device": device.type})


def splits(images: DeepData) -> dict[str, Split]:
    """What no network is trained or pruned on, whole, by name."""
    parts = {"test": (images.x_test, images.labels_test), "validation": images.validation}
    return {name: Split(*part, torch.arange(len(part[1]))) for name, part in parts.items() if part}


def training_split(images: DeepData, seed: int) -> Split:
    """Training samples on which networks are measured that are not pruned.

    All that may be pruned on, or as many as the test split has, of each class as many as of any
    other: measuring takes at most as long on them as on the test split.
    """
    rows = calibration_rows(images.labels_train, len(images.x_test), seed, images.prune_rows)
    return Split(images.x_train, images.labels_train, rows)


def classify_splits(
    network: nn.Module, images: DeepData, given: Mapping[str, Split], on_batch: OnBatch
) -> dict[str, Classified]:
    """Loss and accuracy on each of the splits, in batches that fill the machine.

    Args:
        images: how inputs are normalised.
        given: by name; none of them empty.
    """
    batches = _batches(network, images, given, on_batch)
    return {name: networks.classify(network, batches(name)) for name in given}


def measure_splits(
    network: nn.Module,
    samples: DeepData,
    given: Mapping[str, Split],
    on_batch: OnBatch,
    measure: str,
    dense: nn.Module | None = None,
) -> Measured:
    """Loss and quality on each of the splits, as records name them.

    Args:
        measure: ``accuracy``, or of text ``perplexity``, ``kl``, ``cosine``.
        dense: what outputs on text are compared with; None: nothing.
    """
    if measure == "accuracy":
        return named(classify_splits(network, samples, given, on_batch))
    facts: dict[str, float] = {}
    batches = _batches(network, samples, given, on_batch)
    for split in given:
        found = networks.text_quality(network, (x for x, _ in batches(split)), measure, dense)
        loss = found.pop("loss", None)
        facts |= {} if loss is None else {f"loss_{split}": loss}
        facts |= {name if split == "test" else f"{name}_{split}": x for name, x in found.items()}
    return cast(Measured, facts)


def _batches(
    network: nn.Module, samples: DeepData, given: Mapping[str, Split], on_batch: OnBatch
) -> Callable[[str], Iterator[tuple[Any, Tensor]]]:
    """Batches of a split by its name, as large as fills the machine."""
    example = example_of(samples).to(networks.device_of(network))
    size, done = networks.batch_size(network, example), itertools.count(1)
    parts = {name: split.rows.split(size) for name, split in given.items()}
    total = sum(map(len, parts.values()))

    def batches(name: str) -> Iterator[tuple[Any, Tensor]]:
        x, labels, _ = given[name]
        for part in parts[name]:
            yield as_batch(samples.inputs(x[part])), labels[part]
            on_batch(next(done), total)

    on_batch(0, total)
    return batches
