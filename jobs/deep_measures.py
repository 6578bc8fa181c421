"""What is measured of deep networks while they are pruned: the same of all of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.data import Images
from gfs_dist.jobs.deep_run import sizes
from gfs_dist.jobs.evaluate_deep import TEST_BATCH, speeds

BATCH = 64


@dataclass(frozen=True)
class Measures:
    """Accuracy on the test split, loss over the calibration images, sizes, latencies.

    Attributes:
        images: both splits.
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

    @property
    def num_batches(self) -> int:
        """Of all that :meth:`facts` looks at."""
        test = self.images.x_test
        return -(-len(self.rows) // BATCH) + -(-len(test) // TEST_BATCH)

    def accuracy(self, network: nn.Module) -> float:
        """Share of the test split that is classified right."""
        return networks.classify(self._placed(network), self._test_batches()).accuracy

    def facts(
        self, network: nn.Module, on_batch: Callable[[int], None] = lambda _: None
    ) -> dict[str, Any]:
        """All but latencies, as a row of ``report.json`` has it.

        Args:
            network: stays where it is.
            on_batch: called with the number of batches seen.

        Raises:
            NonFiniteError: an output is NaN or infinite; names the layer.
            DataError: a label that has no output.
        """
        placed, count = self._placed(network), itertools.count(1)

        def counted(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
            for batch in batches:
                yield batch
                on_batch(next(count))

        return {
            "loss": networks.classify(placed, counted(self.batches())).loss,
            "accuracy": networks.classify(placed, counted(self._test_batches())).accuracy,
            **sizes(placed, self.images),
        }

    def latencies(self, *compared: nn.Module) -> list[list[dict[str, Any]]]:
        """Rows for batch 1 and a large batch, of each network.

        They are timed in turn, so that what else the machine does meets all of them.
        """
        found = [speeds(self._placed(network), self.images) for network in compared]
        device = self.device.type
        rows = [
            [{**asdict(speed), "device": device} for speed in turn]
            for turn in zip(*found, strict=True)
        ]
        return [list(of_one) for of_one in zip(*rows, strict=True)]

    def _placed(self, network: nn.Module) -> nn.Module:
        """On the device; ``network`` itself stays where it is."""
        if networks.device_of(network).type == self.device.type:
            return network
        return copy.deepcopy(network).to(self.device)

    def _test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        images = self.images
        pairs = zip(
            images.x_test.split(TEST_BATCH), images.labels_test.split(TEST_BATCH), strict=True
        )
        return ((images.inputs(x), labels) for x, labels in pairs)
