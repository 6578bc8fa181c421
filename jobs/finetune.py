"""``gfs finetune PATH``: train a stored deep network on, a pruned one above all."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from gfs_dist import networks
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import data_words, place_words
from gfs_dist.data import Images
from gfs_dist.errors import CheckpointError
from gfs_dist.files import RunFolder, checkpoint, fingerprint
from gfs_dist.files.find import find_checkpoints
from gfs_dist.workflows.deep_run import DeepRun, plan_lines, sizes, tuning_spec
from gfs_dist.workflows.images_and_networks import (
    architecture_of,
    check_fits,
    origin_of,
    read_for_training,
    read_images,
)
from gfs_dist.workflows.process import check_device
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_lifecycle import open_folder
from gfs_dist.workflows.tracking import tracked
from gfs_dist.workflows.train_deep import DeepTraining
from gfs_dist.workflows.two_layer import data_spec


@tracked
def run(config: schema.Finetune, reporter: Reporter) -> dict[str, Any]:
    """Train the network at ``config.path``, and write the run folder; returns its report.

    Raises:
        CheckpointError: it cannot be read, is no deep network, or is known in evaluation only.
    """
    check_device(config)
    images = read_images(data_spec(config.data))
    place = _find(Path(config.path))
    architecture = _architecture(place, config.model, images)
    make = functools.partial(read_for_training, place, config.model, data_spec(config.data))
    network, spec = make(), tuning_spec(config)
    check_fits(network, images, str(place))
    reporter.plan(plan_lines(config, network, images, spec))
    weights = [tensor for _, tensor in sorted(network.state_dict().items())]
    facts = {
        "training": {f"train.{key}": value for key, value in asdict(spec).items()},
        "inputs": {
            f"data={config.data.name}": images.fingerprint,
            "the network": fingerprint(*weights),
        },
    }
    with open_folder(config, reporter) as folder:
        reporter.run_folder(folder)
        job, home = DeepRun("finetune", config, folder, reporter), str(folder.path)
        with job.failure_reported():
            job.train(DeepTraining(data_spec(config.data), make, spec, home, architecture, facts))
            row = _result(job, Path(config.path), network, images, architecture)
            job.write("finished", [row], None)
        _tell(config, job, row, reporter)
    return job.report


def _find(path: Path) -> Path:
    found = find_checkpoints(path, "path")
    if len(found) > 1:
        raise CheckpointError(
            f"path: {path} is a run folder, choose one network in it: {found[-1][1]}"
        )
    return found[0][1]


def _architecture(place: Path, model: schema.Model, images: Images) -> dict[str, Any]:
    """Of a deep network that can be trained."""
    facts = architecture_of(place, model, images)
    if facts.get("model") == "two_layer":
        raise CheckpointError(f"path: {place} is a two-layer network, accepted are deep ones")
    if facts.get("graph", {}).get("evaluation_only"):
        raise CheckpointError(
            f"path: {place} holds its network as it evaluates, not as it trains; give the state "
            "dict with model=custom model.factory=package.module:function"
        )
    return {key: value for key, value in facts.items() if key != "format"}


def _result(
    job: DeepRun,
    path: Path,
    network: nn.Module,
    images: Images,
    architecture: dict[str, Any],
) -> dict[str, Any]:
    """Write ``models/NAME`` from the last checkpoint; its row."""
    rows = job.checkpoints(sizes(network, images))
    last = job.folder.path / rows[-1]["model"]
    networks.load_state(network, checkpoint.load(last).tensors, last / checkpoint.MODEL)
    name = RunFolder.name_of(path.resolve().stem if path.is_file() else path.resolve().name)
    stored = job.folder.model(name)
    example = images.inputs(images.x_test[:2])
    networks.save(stored, network.eval(), example=example, origin=origin_of(architecture))
    curve = [{key: row[key] for key in ("iteration", "loss", "accuracy")} for row in rows]
    return {
        **rows[-1],
        "name": name,
        "model": job.folder.relative(stored),
        "accuracy_before": rows[0]["accuracy"],
        "accuracy_after": {"finetune": rows[-1]["accuracy"]},
        "checkpoints": curve,
    }


def _tell(config: schema.Finetune, job: DeepRun, row: dict[str, Any], reporter: Reporter) -> None:
    columns = ("iteration", "loss", "accuracy")
    lines = [[point[column] for column in columns] for point in row["checkpoints"]]
    reporter.table(f"{row['name']}, trained on", columns, lines)
    stored = place_words(job.folder.path / row["model"], config.model)
    reporter.next([f"gfs evaluate {stored} {data_words(config.data, config.seed)}"])
