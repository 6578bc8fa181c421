"""A network of the catalog at half its width, through all commands; runs from before the key."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gfs_dist
from gfs_dist import networks
from gfs_dist.cli import main
from tests.jobs.deep_runs import forget_checksums, report

MODEL = "model=resnet8_cifar"
DATA = ["data=npz", "data.path=images.npz"]
SHORT = ["train.iterations=4", "train.checkpoint_every=4", "train.batch=16"]
PRUNE = [*DATA, "runtime=none", "calibration.samples=40", "budget.trials=4"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with images of two classes in it."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60), ("test", 20)):
        labels = np.arange(count) % 2
        images = draw.integers(0, 90, (count, 3, 16, 16)) + 120 * labels[:, None, None, None]
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez(tmp_path / "images.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_thin_network_goes_through_all_commands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", MODEL, "model.width=0.5", *DATA, *SHORT, "out=dense"]) == 0
    dense = report("dense")["dense"]
    assert dense["params"] == networks.count_params(networks.make("resnet8_cifar", 2, width=0.5))
    assert "model.width=0.5" in capsys.readouterr().out  # in the commands that make sense next
    last = "checkpoint=dense/checkpoints/step_00000004"
    assert main(["prune", last, *PRUNE, "budget.macs=60%", "out=small"]) == 0
    assert main(["cut", "small", "budget.macs=80%", "budget.trials=4", "name=larger"]) == 0
    row, larger = report("small")["results"]
    assert row["macs"] <= 0.6 * dense["macs"] < larger["macs"] <= 0.8 * dense["macs"]
    stored = folder / "small" / row["model"]
    assert json.loads((stored / "architecture.json").read_text())["width"] == 0.5
    assert networks.count_params(gfs_dist.load(stored)) == row["params"]
    capsys.readouterr()
    assert main(["evaluate", str(stored), *DATA, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["results"][0]
    assert (found["macs"], found["params"]) == (row["macs"], row["params"])
    assert main(["finetune", str(stored), *DATA, *SHORT, "out=tuned"]) == 0
    assert report("tuned")["results"][-1]["params"] == row["params"]


def test_another_width_than_the_stored_one_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*DATA, "train.iterations=0"]
    for width, out in (("0.5", "thin"), ("null", "whole")):
        assert main(["pretrain", MODEL, f"model.width={width}", *words, f"out={out}"]) == 0
    for width, out, own in (("1", "thin", "0.5"), ("0.5", "whole", "1.0")):
        place = f"{out}/checkpoints/step_00000000"
        assert main(["evaluate", place, MODEL, f"model.width={width}", *DATA]) == 2
        assert (
            f"model.width: found {float(width)}, but {place} has {own}" in capsys.readouterr().err
        )
        assert main(["evaluate", place, MODEL, *DATA]) == 0  # it says itself how wide it is


def test_a_run_from_before_the_key_goes_on(folder: Path) -> None:
    words = [*DATA, "train.iterations=1", "train.batch=16"]
    assert main(["pretrain", MODEL, *words, "out=run"]) == 0
    file = folder / "run" / "config.yaml"
    lines = file.read_text().splitlines(keepends=True)
    assert "  width: null\n" in lines
    file.write_text("".join(line for line in lines if line != "  width: null\n"))
    forget_checksums(folder / "run")
    assert main(["pretrain", "resume=run"]) == 0
