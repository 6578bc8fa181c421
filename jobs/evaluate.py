"""``gfs evaluate``: loss, accuracy, size and speed of any stored network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gfs_dist import networks, report
from gfs_dist.config import commands as schema
from gfs_dist.errors import CheckpointError, ShapeError
from gfs_dist.files import checkpoint
from gfs_dist.files.find import find_checkpoints
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.workflows import evaluate_deep, two_layer
from gfs_dist.workflows.checkpoints import load_network
from gfs_dist.workflows.process import local_device, use_threads
from gfs_dist.workflows.reporter import Reporter

LARGE_BATCH = 256


def run(config: schema.Evaluate, reporter: Reporter) -> dict[str, Any]:
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
        measure = _measure_two_layer if _has_two_layers(place, config) else evaluate_deep.measure
        facts = measure(config, place, device, reporter)
    weights = place / checkpoint.MODEL if place.is_dir() else place
    facts["latency"] = [{**row, "device": device.type} for row in facts["latency"]]
    result = {
        "name": path.name,
        "iteration": iteration,
        **facts,
        "file_bytes": weights.stat().st_size,
    }
    _tell(result, reporter)
    return {
        "format": 1,
        "job": "evaluate",
        "status": "finished",
        "results": [result],
        "machine": report.machine(),
        "versions": report.versions(),
    }


def _has_two_layers(place: Path, config: schema.Evaluate) -> bool:
    """What a folder says of itself; of a bare file the keys ``model.*`` tell."""
    if (place / ARCHITECTURE).is_file():
        architecture: Any = checkpoint.read_json(place / ARCHITECTURE)
    elif place.is_dir():
        architecture = checkpoint.read_json(place / checkpoint.STATE).get("architecture")
    else:
        return isinstance(config.model, schema.TwoLayer)
    return isinstance(architecture, dict) and architecture.get("model") == "two_layer"


def _measure_two_layer(
    config: schema.Evaluate, place: Path, device: torch.device, reporter: Reporter
) -> dict[str, Any]:
    model = two_layer.two_layer(config.model)
    network = load_network(place, model)
    inputs = two_layer.Inputs(
        two_layer.data_spec(config.data), model.width, model.activation, config.objective
    )
    dataset = inputs.dataset()
    if network.features != dataset.features:
        raise ShapeError(
            f"path: {place} takes {network.features} inputs, "
            f"data={config.data.name} has {dataset.features}"
        )
    reporter.plan(
        [
            f"network   {place}: two-layer, {network.width:,} {network.activation} neurons",
            f"data      {config.data.name}: {len(dataset.x_train):,} samples for the loss, "
            f"{len(dataset.x_test):,} for the accuracy",
        ]
    )
    facts = two_layer.measure(network, inputs)
    network.to(device)
    sizes = (1, min(LARGE_BATCH, len(dataset.x_test)))
    speeds = [networks.latency(network, dataset.x_test[:size].to(device)) for size in sizes]
    return {
        "objective": config.objective,
        "kept": network.width,
        **facts,
        "latency": [asdict(speed) for speed in speeds],
    }


def _tell(result: dict[str, Any], reporter: Reporter) -> None:
    speeds = {f"us at batch {row['batch']}": row["median_s"] * 1e6 for row in result["latency"]}
    keys = ("loss", "accuracy", "kept", "macs", "params", "file_bytes")
    shown = {key: result[key] for key in keys if result[key] is not None} | speeds
    reporter.table(result["name"], list(shown), [list(shown.values())])
