"""``gfs evaluate``: loss, accuracy, size and speed of any stored network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from gfs_dist import networks
from gfs_dist import report as pages
from gfs_dist.config import commands as schema
from gfs_dist.config.groups import HuggingFace, Stored
from gfs_dist.data import Texts
from gfs_dist.errors import CheckpointError, ShapeError
from gfs_dist.files import checkpoint
from gfs_dist.files.find import find_checkpoints
from gfs_dist.records import FORMAT, Report, ResultRow
from gfs_dist.workflows.measures import (
    example_of,
    latency_row,
    measure_splits,
    measure_two_layer,
    sizes,
    speeds,
    splits,
    training_split,
)
from gfs_dist.workflows.process import data_spec, local_device, use_threads
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.stored_networks import (
    check_fits,
    load_network,
    own_architecture,
    read_network,
    read_samples,
)
from gfs_dist.workflows.train_deep import LOSS
from gfs_dist.workflows.two_layer import Inputs, two_layer

LARGE_BATCH = 256
"""Inputs of a large batch of a two-layer network."""


def run(config: schema.Evaluate, reporter: Reporter) -> Report:
    """Measure the network at ``config.path``; nothing is written.

    Raises:
        CheckpointError: it cannot be read, or is a run folder with several networks.
        ShapeError: the data has another number of inputs.
    """
    device = local_device(config.device)
    path = Path(config.path)
    if (path / "config.yaml").is_file():
        inside = [*sorted(path.glob("models/*")), *sorted(path.glob("checkpoints/*"))]
        names = ", ".join(str(found) for found in inside[:3])
        raise CheckpointError(f"path: {path} is a run folder, choose one network in it: {names}")
    iteration, place = find_checkpoints(path, "path")[0]
    with use_threads(config.threads):
        own = own_architecture(place)  # a bare file says nothing of itself
        named = config.model.name if own is None else own.get("model")
        measure = _measure_two_layer if named == "two_layer" else _measure_deep
        facts = measure(config, place, device, reporter)
    weights = place / checkpoint.MODEL if place.is_dir() else place
    facts |= {"name": path.name, "iteration": iteration, "file_bytes": weights.stat().st_size}
    speeds = {f"us at batch {time['batch']}": time["median_s"] * 1e6 for time in facts["latency"]}
    accuracies = ("accuracy", "accuracy_train", "accuracy_validation")
    measured = ("loss", "perplexity", "kl", "cosine", *accuracies)
    keys = (*measured, "kept", "macs", "params", "file_bytes")
    shown = {key: facts[key] for key in keys if facts.get(key) is not None} | speeds
    reporter.table(path.name, list(shown), [list(shown.values())])
    return {
        "format": FORMAT,
        "job": "evaluate",
        "status": "finished",
        "results": [cast(ResultRow, facts)],
        "machine": pages.machine(),
        "versions": pages.versions(),
    }


def _measure_two_layer(
    config: schema.Evaluate, place: Path, device: torch.device, reporter: Reporter
) -> dict[str, Any]:
    network = load_network(place, two_layer(config.model))
    inputs = Inputs.of(config, None)
    dataset = inputs.dataset()
    if network.features != dataset.features:
        raise ShapeError(
            f"path: {place} takes {network.features} inputs, "
            f"data={config.data.name} has {dataset.features}"
        )
    reporter.plan(
        [
            f"network   {place}: two-layer, {network.width:,} {network.activation} neurons",
            f"data      {config.data.name}: {len(dataset.pruned_on[0]):,} samples for the loss, "
            f"{len(dataset.x_test):,} for the accuracy",
        ]
    )
    facts = measure_two_layer(network, inputs)
    network.to(device)
    batches = [dataset.x_test[:size].to(device) for size in (1, LARGE_BATCH)]
    times = [latency_row(networks.latency(network, x), device) for x in batches]
    return {"objective": config.objective, "kept": network.width, **facts, "latency": times}


def _measure_deep(
    config: schema.Evaluate, place: Path, device: torch.device, reporter: Reporter
) -> dict[str, Any]:
    """Loss (mean cross-entropy; the first is that of the test split), quality, sizes, latencies.

    With text ``model=hf`` names the dense network, from which outputs are compared.

    Raises:
        CheckpointError: it cannot be read, or is not the network of ``model=``.
        ShapeError: it does not take these images, or has fewer outputs than classes.
    """
    images = read_samples(data_spec(config.data))
    model, dense = config.model, None
    if isinstance(images, Texts) and isinstance(model, HuggingFace):
        dense, model = read_network(Path(model.path), model, images), Stored("stored")
    network = read_network(place, model, images)
    check_fits(network, images, str(place))
    size, measure = sizes(network, images), config.quality or "accuracy"
    alone = dense is None and measure in ("kl", "cosine")
    measured_on = {**splits(images), "train": training_split(images, config.data.seed)}
    reporter.plan(
        [
            f"network   {place}: {size['params']:,} parameters, {size['macs']:,} multiply-adds",
            f"data      {config.data.name}: {len(images.x_test):,} test samples and "
            f"{len(measured_on['train'].rows):,} training samples for loss and {measure}"
            + (", to the network of model=hf: none" if alone else ""),
        ]
    )
    network.to(device)
    times = [*speeds(network, images)]
    networks.prefer_channels_last(network, example_of(images).to(device))

    def on_batch(done: int, total: int) -> None:
        reporter.step(done) if done else reporter.phase("evaluate", total)

    found = measure_splits(network, images, measured_on, on_batch, measure, dense)
    objective = LOSS if measure in ("accuracy", "perplexity") else None
    row = {"objective": objective, "kept": None, "loss": found.get("loss_test"), "accuracy": None}
    return {**row, **found, **size, "latency": times}
