"""``gfs pretrain`` of a deep network, by the recipe of the paper."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

from gfs_dist.command_words import typed, typed_place
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import data_words, model_words
from gfs_dist.workflows.deep_run import DeepRun, deep_spec, plan_lines, sizes
from gfs_dist.workflows.images_and_networks import check_fits, describe, fresh_network, read_images
from gfs_dist.workflows.process import check_device
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_lifecycle import open_folder
from gfs_dist.workflows.train_deep import DeepTraining
from gfs_dist.workflows.two_layer import data_spec


def run(config: schema.Pretrain, reporter: Reporter) -> dict[str, Any]:
    """Train, and write the run folder; returns what ``report.json`` holds."""
    check_device(config)
    images = read_images(data_spec(config.data))
    architecture = describe(config.model, images)
    make = functools.partial(fresh_network, architecture, config.seed)
    network, spec = make(), deep_spec(config.train, config.seed)
    check_fits(network, images, f"model={config.model.name}")
    reporter.plan(plan_lines(config, network, images, spec))
    facts = {
        "training": {f"train.{key}": value for key, value in asdict(spec).items()},
        "inputs": {f"data={config.data.name}": images.fingerprint},
    }
    with open_folder(config, reporter) as folder:
        reporter.run_folder(folder)
        job, home = DeepRun("pretrain", config, folder, reporter), str(folder.path)
        with job.failure_reported():
            job.train(DeepTraining(data_spec(config.data), make, spec, home, architecture, facts))
            results = job.checkpoints(sizes(network, images))
            measured = ("loss", "accuracy", "macs", "params")
            job.write("finished", results, {key: results[-1][key] for key in measured})
        _tell(config, job, results, reporter)
    return job.report


def _tell(
    config: schema.Pretrain, job: DeepRun, results: list[dict[str, Any]], reporter: Reporter
) -> None:
    columns = ("iteration", "loss", "accuracy")
    reporter.table("trained", columns, [[row[column] for column in columns] for row in results])
    last = str(job.folder.path / results[-1]["model"])
    words = f"{model_words(config.model)} {data_words(config.data, config.seed)}"
    reporter.next(
        [
            f"gfs prune {typed('checkpoint', last)} {words}",
            f"gfs evaluate {typed_place('path', last)} {words}",
        ]
    )
