"""``repair.finetune``: a result trained on, in the run folder that it was cut in."""

from __future__ import annotations

import functools
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gfs_dist import networks
from gfs_dist.files import RunFolder, atomic, checkpoint, fingerprint
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.runtime import Runtime
from gfs_dist.workflows.deep_run import TrainingListener, tuning_spec
from gfs_dist.workflows.images_and_networks import read_for_training
from gfs_dist.workflows.results import ResultMaker
from gfs_dist.workflows.train_deep import DeepTraining
from gfs_dist.workflows.two_layer import data_spec


def finetune(maker: ResultMaker, row: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """Train ``models/NAME`` on and write it again; the row that then holds.

    ``finetune/NAME/`` has the network as it was cut and the checkpoints since: a run that was
    killed goes on from the last one.
    """
    name, config, folder = row["name"], maker.config, maker.folder
    home = folder.path.resolve() / "finetune" / name  # ranks may have another current folder
    cut = _keep(folder.model(name), home)
    make = functools.partial(read_for_training, cut, config.model, data_spec(config.data))
    network, spec = make(), tuning_spec(config)
    task = DeepTraining(
        data_spec(config.data),
        make,
        spec,
        str(home),
        checkpoint.read_json(cut / ARCHITECTURE),
        {
            "training": {f"train.{key}": value for key, value in asdict(spec).items()},
            "inputs": {
                f"data={config.data.name}": maker.measures.images.fingerprint,
                "the network": fingerprint(*dict(sorted(network.state_dict().items())).values()),
            },
        },
    )
    maker.reporter.phase(f"finetune {name}", spec.iterations)
    runtime.run_group(task, TrainingListener(folder, maker.reporter, spec.lr))
    _, last = RunFolder(home).checkpoints()[-1]
    found = checkpoint.load(last)
    networks.load_state(network, found.tensors, last / checkpoint.MODEL)
    _, measured = maker.store(name, network.eval(), found.state.get("accuracy"))
    after = {**row["accuracy_after"], "finetune": measured["accuracy"]}
    return {**row, **measured, "accuracy_after": after}


def _keep(model: Path, home: Path) -> Path:
    """The network as it was cut, out of the way of the one that it becomes."""
    cut = home / "cut"
    with atomic.storage_errors(home):
        (home / "checkpoints").mkdir(parents=True, exist_ok=True)  # ranks have no lock to make it
    if not cut.is_dir():
        with atomic.folder(cut) as aside:
            for file in (ARCHITECTURE, checkpoint.MODEL):
                shutil.copyfile(model / file, aside / file)
    return cut
