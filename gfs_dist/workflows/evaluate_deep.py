"""``gfs evaluate`` of a deep network: measured on the test split, timed at two batch sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.config import commands as schema
from gfs_dist.data import Images
from gfs_dist.workflows.images_and_networks import check_fits, read_images, read_network
from gfs_dist.workflows.measuring import batched_rows, batches_of
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.two_layer import data_spec

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
    latency = [asdict(speed) for speed in speeds(network, images)]
    networks.prefer_channels_last(network, example.to(device))
    parts = batched_rows(network, images)
    reporter.phase("evaluate", len(parts))
    found = networks.classify(network, batches_of(images, parts, reporter.step))
    return {
        "objective": "cross_entropy",
        "kept": None,
        **found._asdict(),
        **sizes,
        "latency": latency,
    }


def speeds(network: nn.Module, images: Images) -> Iterator[networks.Latency]:
    """At batch 1 and at a large batch, or as many test images as there are."""
    for size, repeats in ((1, REPEATS), (LARGE_BATCH, LARGE_REPEATS)):
        x = images.inputs(images.x_test[:size]).to(networks.device_of(network))
        yield networks.latency(network, x, repeats)
