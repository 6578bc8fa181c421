"""``gfs pretrain``: train a network and keep checkpoints on the way."""

from __future__ import annotations

import time
from typing import Any

from gfs_dist import report
from gfs_dist.command_words import typed, typed_place
from gfs_dist.config import commands as schema
from gfs_dist.files import RunFolder
from gfs_dist.networks import TwoLayer
from gfs_dist.training import loss_rise_warning
from gfs_dist.workflows import pretrain_deep
from gfs_dist.workflows.checkpoints import train_checkpoints, train_spec
from gfs_dist.workflows.process import local_device, own_event, use_threads
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_lifecycle import failure_reported, open_folder
from gfs_dist.workflows.tracking import tracked
from gfs_dist.workflows.two_layer import Inputs, data_spec, input_words, measure


@tracked
def run(config: schema.Pretrain, reporter: Reporter) -> dict[str, Any]:
    """Train, and write the run folder; returns what ``report.json`` holds."""
    if not isinstance(config.model, schema.TwoLayer):
        return pretrain_deep.run(config, reporter)
    local_device(config.device)
    model = config.model
    inputs = Inputs(data_spec(config.data), model.width, model.activation, config.objective)
    reporter.plan(_plan(config, inputs))
    with use_threads(config.threads), open_folder(config, reporter) as folder:
        reporter.run_folder(folder)
        began = time.perf_counter()
        facts: dict[str, Any] = {}

        def write_failure(status: str, error: BaseException) -> None:
            facts["total_s"] = time.perf_counter() - began
            _write(folder, status, [], facts, {"error": str(error) or type(error).__name__})

        with failure_reported(write_failure):
            trained = train_checkpoints(config, inputs, folder, reporter)
            facts["train_s"] = time.perf_counter() - began
            results = _results(config, inputs, folder, trained.networks)
        facts["total_s"] = time.perf_counter() - began
        folder.append_event(own_event("finished", results[-1]["iteration"]))
        losses = {row["iteration"]: row["loss"] for row in results}
        said = loss_rise_warning(losses, trained.lr)
        written = _write(folder, "finished", results, facts, {"notes": [said]} if said else None)
        _tell(config, folder, results, reporter)
        return written


def _plan(config: schema.Pretrain, inputs: Inputs) -> list[str]:
    """What is about to be done; checks that it can be."""
    spec, dataset = train_spec(config, inputs), inputs.dataset()
    network = TwoLayer(inputs.width, dataset.features, inputs.activation)
    count = len({*range(0, spec.iterations, spec.checkpoint_every), spec.iterations})
    size = sum(parameter.nbytes for parameter in network.parameters())
    measured = "" if config.train.lr is not None else " (from the curvature at the start)"
    batch = "" if spec.method == "gd" else f" of {spec.batch} samples, momentum {spec.momentum:g}"
    return [
        f"data      {config.data.name}: {len(dataset.x_train):,} samples to train on, "
        f"{len(dataset.x_test):,} to test on, {dataset.features:,} inputs",
        f"network   two-layer, {network.width:,} {network.activation} neurons",
        f"training  {config.objective} loss, {spec.iterations:,} iterations of {spec.method}"
        f"{batch}, lr {spec.lr:g}{measured}",
        f"files     {count} checkpoints, {count * size / 2**20:.1f} MiB",
    ]


def _results(
    config: schema.Pretrain,
    inputs: Inputs,
    folder: RunFolder,
    trained: list[tuple[int, TwoLayer]],
) -> list[dict[str, Any]]:
    return [
        {
            "name": folder.checkpoint(iteration).name,
            "iteration": iteration,
            "objective": config.objective,
            "kept": network.width,
            **measure(network, inputs),
            "path": None,
            "model": folder.relative(folder.checkpoint(iteration)),
        }
        for iteration, network in trained
    ]


def _write(
    folder: RunFolder,
    status: str,
    results: list[dict[str, Any]],
    timing: dict[str, Any],
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    measured = ("loss", "accuracy", "macs", "params")
    content = {
        "format": 1,
        "job": "pretrain",
        "status": status,
        "dense": {key: results[-1][key] for key in measured} if results else None,
        "results": results,
        "timing": timing,
        "faults": [],
        "machine": report.machine(),
        "versions": report.versions(),
        **(more or {}),
    }
    content = folder.write_report(content)
    if status == "finished":
        report.write(folder.path, content, {})
    folder.written()
    return content


def _tell(
    config: schema.Pretrain, folder: RunFolder, results: list[dict[str, Any]], reporter: Reporter
) -> None:
    columns = ("iteration", "loss", "accuracy")
    reporter.table("trained", columns, [[row[column] for column in columns] for row in results])
    words, last = input_words(config), str(folder.path / results[-1]["model"])
    reporter.next(
        [
            f"gfs prune {typed('checkpoint', str(folder.path))} {words}",
            f"gfs evaluate {typed_place('path', last)} {words}",
        ]
    )
