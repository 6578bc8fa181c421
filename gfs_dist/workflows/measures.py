"""What is measured of deep networks while they are pruned: the same of all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.data import Images
from gfs_dist.workflows.deep_run import sizes
from gfs_dist.workflows.evaluate_deep import speeds
from gfs_dist.workflows.measuring import batched_rows, batches_of

BATCH = 64
OnBatch = Callable[[int, int], None]


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

    def accuracy(self, network: nn.Module, on_batch: OnBatch) -> float:
        """Share of the test split that is classified right; arguments as :meth:`facts`."""
        return self._accuracy(self._laid_out(network), on_batch)

    def facts(
        self, network: nn.Module, on_batch: OnBatch, accuracy: float | None = None
    ) -> dict[str, Any]:
        """All but latencies, as a row of ``report.json`` has it.

        Args:
            network: stays where it is.
            on_batch: called with the number of batches of the test split that were seen, from 0
                on, and the number of all.
            accuracy: if it is known.

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
