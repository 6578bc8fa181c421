"""The test split as networks are measured on it: in batches that fill the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.data import Images


def batched_rows(
    network: nn.Module, images: Images, rows: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Rows of the test split, all of it or ``rows``, parted into batches for ``network``."""
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
