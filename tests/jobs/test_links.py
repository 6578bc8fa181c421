"""A run folder of somebody else holds links and pipes: nothing is written, and nobody waits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.cli import main

SMALL = ["data.samples=60", "model.width=12", "train.iterations=0", "steps=5", "runtime=none"]
NAMES = [
    ".lock", "config.yaml", "events.jsonl", "report.json", "report.md", "report.html", "mlflow.db",
    "logs/rank_0.log", "paths/step_00000000.json", "models/step_00000000/model.safetensors",
    "checkpoints/step_00000000/state.json", "plots/loss.png", "tensorboard/events", "finetune/a",
]  # fmt: skip
FOLDERS = ["logs", "models", "paths", "plots", "checkpoints", "tensorboard", "scratch", "finetune"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("links") / "run"
    assert main(["prune", f"out={out}", *SMALL]) == 0
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, beside ``secret`` and ``home``."""
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "home").mkdir()
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def replaced(run: Path, name: str) -> Path:
    """Nothing in the place of what is called ``name``, in a folder that is there."""
    place = run / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    return place


def refused(words: list[str], name: str, capsys: Any) -> None:
    capsys.readouterr()
    assert main(words) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_files_elsewhere_stay_what_they_are(run: Path, name: str, capsys: Any) -> None:
    content = (run / name).read_bytes() if (run / name).is_file() else b"mine"
    (run.parent / "secret").write_bytes(content)
    for target in ("secret", "nothing"):
        replaced(run, name).symlink_to(run.parent / target)
        for words in (["prune", f"resume={run}"], ["report", str(run)]):
            refused(words, name, capsys)
    assert (run.parent / "secret").read_bytes() == content
    assert not (run.parent / "nothing").exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_elsewhere_stay_as_they_are(run: Path, name: str, capsys: Any) -> None:
    replaced(run, name).symlink_to("../home")
    for words in (["prune", f"resume={run}"], ["report", str(run)]):
        refused(words, f"{name}: found a link to {run.parent / 'home'}", capsys)
    assert list((run.parent / "home").iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_pipes_keep_nobody_waiting(run: Path, name: str, capsys: Any) -> None:
    os.mkfifo(replaced(run, name))
    for words in (
        ["prune", f"resume={run}"],
        ["report", str(run)],
        ["cut", str(run), "budget.macs=50%"],
    ):
        capsys.readouterr()
        assert main(words) == 2
    main(["evaluate", str(run / "models" / "step_00000000"), SMALL[0]])


def test_a_disk_behind_a_url_is_a_run_folder_like_any(run: Path, capsys: Any) -> None:
    shutil.rmtree(run / "models")
    (run / "models").symlink_to("../home")
    refused(["prune", f"resume=file://{run}"], "models: found a link", capsys)
    (run.parent / "empty").mkdir()
    (run.parent / "empty" / ".lock").symlink_to("../secret")
    refused(["prune", f"out=file://{run.parent / 'empty'}", *SMALL], "found a link", capsys)
    assert (run.parent / "secret").read_text() == "mine"
    assert list((run.parent / "home").iterdir()) == []


def test_a_new_run_does_not_lock_what_a_link_points_to(run: Path, capsys: Any) -> None:
    out = run.parent / "home"
    (out / ".lock").symlink_to("../secret")
    refused(["prune", f"out={out}", *SMALL], ".lock: found a link", capsys)
    assert (run.parent / "secret").read_text() == "mine"


def test_links_that_stay_inside_are_no_harm(run: Path) -> None:
    (run / "models" / "best").symlink_to("step_00000000")
    (run / "notes").symlink_to("report.md")
    link = run.parent / "link"
    link.symlink_to("run")
    assert main(["prune", f"resume={link}"]) == 0
    assert main(["report", str(link)]) == 0
    assert main(["evaluate", str(link / "models" / "best"), SMALL[0]]) == 0
