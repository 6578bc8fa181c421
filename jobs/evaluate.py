"""``gfs evaluate``: loss, accuracy, size and speed of any stored network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gfs_dist import networks, report
from gfs_dist.errors import CheckpointError, ShapeError
from gfs_dist.jobs import config as schema
from gfs_dist.jobs.checkpoints import find_checkpoints, load_network
from gfs_dist.jobs.local import local_device, use_threads
from gfs_dist.jobs.reporter import Reporter
from gfs_dist.jobs.two_layer import Inputs, data_spec, measure, two_layer

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
    iteration, place = find_checkpoints(path)[0]
    model = two_layer(config.model)
    network = load_network(place, model)
    inputs = Inputs(data_spec(config.data), model.width, model.activation, config.objective)
    dataset = inputs.dataset()
    if network.features != dataset.features:
        raise ShapeError(
            f"path: {path} takes {network.features} inputs, "
            f"data={config.data.name} has {dataset.features}"
        )
    reporter.plan(
        [
            f"network   {path}: two-layer, {network.width:,} {network.activation} neurons",
            f"data      {config.data.name}: {len(dataset.x_train):,} samples for the loss, "
            f"{len(dataset.x_test):,} for the accuracy",
        ]
    )
    with use_threads(config.threads):
        facts = measure(network, inputs)
        network.to(device)
        batches = (1, min(LARGE_BATCH, len(dataset.x_test)))
        speeds = [networks.latency(network, dataset.x_test[:size].to(device)) for size in batches]
    result = {
        "name": path.name,
        "iteration": iteration,
        "objective": config.objective,
        "kept": network.width,
        **facts,
        "latency": [{**asdict(speed), "device": device.type} for speed in speeds],
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


def _tell(result: dict[str, Any], reporter: Reporter) -> None:
    speeds = {f"us at batch {row['batch']}": row["median_s"] * 1e6 for row in result["latency"]}
    shown = {key: result[key] for key in ("loss", "accuracy", "kept", "macs", "params")} | speeds
    reporter.table(result["name"], list(shown), [list(shown.values())])
