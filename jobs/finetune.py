"""``gfs finetune PATH``: train a stored deep network on, a pruned one above all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from gfs_dist import networks
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import data_words, place_words
from gfs_dist.data import Images
from gfs_dist.errors import CheckpointError
from gfs_dist.files import RunFolder
from gfs_dist.files.find import find_checkpoints
from gfs_dist.records import CheckpointRow, Report, ResultRow
from gfs_dist.workflows.checkpoints import show_checkpoints
from gfs_dist.workflows.process import check_device, data_spec, use_threads
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import RunReport, open_folder
from gfs_dist.workflows.stored_networks import architecture_of, check_fits, origin_of, read_images
from gfs_dist.workflows.tracking import tracked
from gfs_dist.workflows.train_deep import DeepTraining


@tracked
def run(config: schema.Finetune, reporter: Reporter) -> Report:
    """Train the network at ``config.path``, and write the run folder; returns its report.

    Raises:
        CheckpointError: it cannot be read, is no deep network, or is known in evaluation only.
    """
    check_device(config)
    path, images = Path(config.path), read_images(data_spec(config.data))
    found = find_checkpoints(path, "path")
    place = found[-1][1]
    if len(found) > 1:
        raise CheckpointError(f"path: {path} is a run folder, choose one network in it: {place}")
    architecture = _architecture(place, config.model, images)
    training = DeepTraining.of_stored(config, place, architecture)
    check_fits(training.network, images, str(place))
    reporter.plan(training.lines)
    with use_threads(config.threads), open_folder(config, reporter) as folder:
        reporter.run_folder(folder)
        report = RunReport(folder, "finetune", reporter)
        with report.recorded():
            training.train(report, reporter)
            row = _store(training, path, architecture, folder)
            report.put(row)
        show_checkpoints(f"{row['name']}, trained on", row["checkpoints"], reporter)
        stored = place_words(folder.path / str(row["model"]), config.model)
        reporter.next([f"gfs evaluate {stored} {data_words(config.data, config.seed)}"])
        return report.content


def _architecture(place: Path, model: schema.Model, images: Images) -> dict[str, Any]:
    facts = architecture_of(place, model, images)
    if facts.get("model") == "two_layer":
        raise CheckpointError(f"path: {place} is a two-layer network, accepted are deep ones")
    if facts.get("graph", {}).get("evaluation_only"):
        raise CheckpointError(
            f"path: {place} holds its network as it evaluates, not as it trains; give the state "
            "dict with model=custom model.factory=package.module:function"
        )
    return {key: value for key, value in facts.items() if key != "format"}


def _store(
    training: DeepTraining, path: Path, architecture: dict[str, Any], folder: RunFolder
) -> ResultRow:
    """Write ``models/NAME`` from the last checkpoint; its row."""
    rows, images = training.rows(folder), training.images
    network, _ = training.trained(folder)
    name = RunFolder.name_of(path.resolve().stem if path.is_file() else path.resolve().name)
    stored, example = folder.model(name), images.inputs(images.x_test[:2])
    networks.save(stored, network, example=example, origin=origin_of(architecture))
    return {
        **rows[-1],
        "name": name,
        "model": folder.relative(stored),
        "accuracy_before": rows[0]["accuracy"],
        "accuracy_after": {"finetune": rows[-1]["accuracy"]},
        "checkpoints": [
            cast(CheckpointRow, {key: row.get(key) for key in CheckpointRow.__annotations__})
            for row in rows
        ],
    }
