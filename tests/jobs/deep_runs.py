"""A deep network that trains in a second on the digits, in a folder of the user's own; its runs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.cli import main
from gfs_dist.files import checkpoint

SOURCE = """
from torch import nn


def make(classes=10, norm=True):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, classes),
    )


def fail():
    raise ValueError("no weights today")
"""

MODEL = ["model=custom", "model.factory=tiny_digits:make", "data.samples=200"]
TRAIN = [
    "train=sgd", "train.iterations=25", "train.checkpoint_every=10", "train.batch=32",
]  # fmt: skip

RUN = ["data.samples=200", "calibration.samples=60"]
FACTORY = "model.factory=tiny_digits:make"
OWN = ["model=custom", FACTORY]
MADE_BY = "factory=tiny_digits:make"
LAST = ["checkpoint=dense/checkpoints/step_00000025", *OWN, *RUN]
ALONE = [*LAST, "runtime=none"]

FIRST_SEARCH, SECOND_SEARCH = 3, 7
"""Generations of the layers' searches. Before each lie the pass over what its consumer reads, the
sums of that, and the map made of these."""


def write_factory(folder: Path) -> None:
    """Make ``tiny_digits:make`` importable from ``folder``."""
    (folder / "tiny_digits.py").write_text(SOURCE)


def forget_checksums(run: Path) -> None:
    """Make a run folder one of an earlier version, which knows nothing of its files."""
    found = report(run)
    del found["files"], found["sha256"]
    (run / "report.json").write_text(json.dumps(found))


def make_home(home: Path) -> None:
    """A user's folder: a factory, and a network trained with it in ``dense/``."""
    write_factory(home)
    before = Path.cwd()
    os.chdir(home)
    try:
        assert main(["pretrain", *MODEL, *TRAIN, "out=dense"]) == 0
    finally:
        os.chdir(before)


def report(out: Path | str) -> dict[str, Any]:
    return dict(json.loads((Path(out) / "report.json").read_text()))


def prune(out: Path | str, *words: str) -> dict[str, Any]:
    """Run the command in this process; the report it wrote."""
    assert main(["prune", f"out={out}", *words]) == 0
    return report(out)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gfs_dist", *words]


def elsewhere(
    *words: str, faults: list[dict[str, Any]] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, with faults on schedule."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    if faults:
        env["GFS_FAULTS"] = json.dumps(faults)
    return subprocess.run(command(*words), env=env, capture_output=True, text=True, timeout=600)


def paths(out: Path | str, row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The paths of a result by layer, in forward order."""
    layers = [layer["name"] for layer in row["layers"] if layer["reason"] is None]
    return {
        name: json.loads((Path(out) / row["path"] / f"{name}.json").read_text()) for name in layers
    }


def joined_hash(found: dict[str, dict[str, Any]]) -> str:
    """``picks_sha256`` of a deep result, from the files alone."""
    hashes = [sha256(",".join(map(str, path["picks"]))) for path in found.values()]
    return sha256(",".join(hashes))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def tensors(out: Path | str, row: dict[str, Any]) -> dict[str, Tensor]:
    return checkpoint.read_tensors(Path(out) / row["model"] / checkpoint.MODEL)


def outcome(out: Path | str) -> list[dict[str, Any]]:
    """What has to be the same of two runs: all of the results but the times."""
    rows = []
    for row in report(out)["results"]:
        dense = {key: value for key, value in row["dense"].items() if key != "latency"}
        kept = {key: value for key, value in row.items() if key != "latency"}
        found = tensors(out, row)
        bits = {name: sha256(str(tensor.tolist())) for name, tensor in found.items()}
        rows.append({**kept, "dense": dense, "bits": bits})
    return rows


def dense_network() -> nn.Module:
    """The trained network of :func:`make_home`, seen from that folder."""
    return networks.load_tensors(
        {"model": "custom", "factory": "tiny_digits:make", "kwargs": {}},
        checkpoint.load("dense/checkpoints/step_00000025").tensors,
        "here",
        factory="tiny_digits:make",
    )
