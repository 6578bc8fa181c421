"""``gfs evaluate`` of a deep network: measured on the test split, timed at two batch sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.data import Images
from gfs_dist.jobs import config as schema
from gfs_dist.jobs.deep import check_fits, read_images, read_network
from gfs_dist.jobs.reporter import Reporter
from gfs_dist.jobs.two_layer import data_spec

TEST_BATCH = 250
LARGE_BATCH = 64
REPEATS, LARGE_REPEATS = 30, 5
"""How often one input, and a large batch, is timed: that takes seconds in a large network."""


def measure(
    config: schema.Evaluate, place: Path, device: torch.device, reporter: Reporter
) -> dict[str, Any]:
    """Loss (mean cross-entropy) and accuracy on the test split, sizes and latencies.

    Raises:
        CheckpointError: it cannot be read, or is not the network of ``model=``.
        ShapeError: it does not take these images, or has fewer outputs than classes.
    """
    images = read_images(data_spec(config.data))
    network = read_network(place, config.model, images)
    check_fits(network, images, str(place))
    example = images.inputs(images.x_test[:1])
    sizes = {
        "macs": networks.count_macs(network, example),
        "params": networks.count_params(network),
    }
    reporter.plan(
        [
            f"network   {place}: {sizes['params']:,} parameters, {sizes['macs']:,} multiply-adds",
            f"data      {config.data.name}: {len(images.x_test):,} test samples for loss and "
            "accuracy",
        ]
    )
    network.to(device)
    reporter.phase("evaluate", -(-len(images.x_test) // TEST_BATCH))
    found = networks.classify(network, _batches(images, reporter))
    return {
        "objective": "cross_entropy",
        "kept": None,
        **found._asdict(),
        **sizes,
        "latency": [asdict(speed) for speed in speeds(network, images)],
    }


def _batches(images: Images, reporter: Reporter) -> Iterator[tuple[Tensor, Tensor]]:
    parts = zip(images.x_test.split(TEST_BATCH), images.labels_test.split(TEST_BATCH), strict=True)
    for number, (x, labels) in enumerate(parts, 1):
        yield images.inputs(x), labels
        reporter.step(number)


def speeds(network: nn.Module, images: Images) -> Iterator[networks.Latency]:
    """At batch 1 and at a large batch, or as many test images as there are."""
    for size, repeats in ((1, REPEATS), (LARGE_BATCH, LARGE_REPEATS)):
        x = images.inputs(images.x_test[:size]).to(networks.device_of(network))
        yield networks.latency(network, x, repeats)
