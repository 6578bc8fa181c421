"""``data.prune_samples`` and ``data.validation`` in every command that takes data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gfs_dist
from gfs_dist import data, networks
from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.data import DataSpec
from gfs_dist.jobs import evaluate
from gfs_dist.networks import TwoLayer
from gfs_dist.workflows.reporter import Reporter
from tests.jobs.deep_runs import (
    ALONE,
    LAST,
    MODEL,
    OWN,
    TRAIN,
    dense_network,
    paths,
    report,
)

KEYS = ["data.samples=200", "data.prune_samples=60", "data.validation=0.1"]
SPEC = DataSpec(samples=200, prune_samples=60, validation=0.1)
SMALL = ["model.width=30", "objective=bce"]


def evaluated(place: Path, *words: str) -> dict[str, Any]:
    return evaluate.run(compose("evaluate", [f"path={place}", *words]), Reporter())["results"][0]


def right(network: TwoLayer, x: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float(((network(x) > 0) == (labels >= 5)).double().mean())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "run"
    words = [*SMALL, *KEYS, "train.iterations=10", "train.checkpoint_every=10"]
    assert main(["pretrain", *words, f"out={out}"]) == 0
    return out


def test_two_layer_commands_measure_on_the_same_rows(pretrained: Path, tmp_path: Path) -> None:
    words = [*SMALL, *KEYS, f"checkpoint={pretrained}", "steps=12", "runtime=none"]
    assert main(["prune", *words, f"out={tmp_path / 'run'}"]) == 0
    digits, row = data.load(SPEC), report(tmp_path / "run")["results"][-1]
    network = gfs_dist.load(tmp_path / "run" / row["model"])
    assert row["accuracy_train"] == right(network, *digits.pruned_on)
    assert row["accuracy_validation"] == right(network, *digits.validation)
    assert row["accuracy"] == right(network, digits.x_test, digits.labels_test)
    assert row["loss"] == row["loss_train"]
    trained = report(pretrained)["results"][-1]
    again = evaluated(pretrained / trained["model"], *KEYS, "objective=bce")
    for key in ("loss", "accuracy", "accuracy_train", "accuracy_validation", "loss_validation"):
        assert row["dense"][key] == trained[key] == again[key]
    [path] = (tmp_path / "run" / "paths").glob("*10.json")
    assert '"samples": 60' in path.read_text()
    page = (tmp_path / "run" / "report.md").read_text()
    assert "dense validation accuracy" in page
    assert "over 60 samples" in page


def test_training_before_pruning_takes_all_that_is_not_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "train.iterations=10", "train.checkpoint_every=10", "steps=5", "runtime=none"]
    runs = [["data.samples=200"], ["data.samples=200", "data.prune_samples=60"], KEYS]
    weights = []
    for number, keys in enumerate(runs):
        out = tmp_path / str(number)
        assert main(["prune", *words, *keys, f"out={out}"]) == 0
        file = out / "checkpoints" / "step_00000010" / "model.safetensors"
        weights.append(file.read_bytes())
    assert weights[0] == weights[1] != weights[2]
    said = capsys.readouterr().out
    assert "60 samples to prune on, 360 to test on, 20 held out" in said
    assert "data.prune_samples=60 data.validation=0.1" in said.rpartition("next: gfs evaluate")[2]


def test_a_run_goes_on_with_the_same_rows_only(
    pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for word, found in (("prune_samples=50", "60"), ("validation=0.2", "0.1")):
        assert main(["pretrain", f"resume={pretrained}", f"data.{word}"]) == 2
        key, _, value = word.partition("=")
        expected = f"data.{key}: found {value}, the run folder has {found}"
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "1", "-0.5"])
def test_a_share_that_is_none_is_refused(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", f"data.validation={share}"]) == 2
    assert f"data.validation: found {share}, accepted a number" in capsys.readouterr().err


def test_deep_networks_are_calibrated_on_rows_to_prune_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert main(["prune", *ALONE, *KEYS, "out=part"]) == 0
    [row] = report("part")["results"]
    images, network = data.load_images(SPEC), dense_network()
    x, labels = images.pruned_on
    assert {path["samples"] for path in paths("part", row).values()} == {len(labels)} == {60}
    found = networks.classify(network, [(images.inputs(x), labels)])
    assert row["dense"]["accuracy_train"] == found.accuracy
    assert row["dense"]["loss"] == pytest.approx(found.loss, rel=1e-5)
    x, labels = images.validation
    found = networks.classify(network, [(images.inputs(x), labels)])
    assert row["dense"]["accuracy_validation"] == found.accuracy
    words = [*OWN, *KEYS]
    again = evaluated(home / "dense/checkpoints/step_00000025", *words)
    assert again["accuracy_train"] == row["dense"]["accuracy_train"]
    assert again["accuracy_validation"] == row["dense"]["accuracy_validation"]
    assert main(["prune", *LAST, "runtime=none", "resume=part", "data.validation=0.2"]) == 2


def test_deep_training_leaves_out_what_is_held_out(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    words = [*MODEL, *TRAIN, "train.iterations=5", "data.validation=0.5"]
    assert main(["pretrain", *words, "out=half"]) == 0
    said = capsys.readouterr().out
    assert "100 samples of 1 x 8 x 8 to train on, 360 to test on, 100 held out" in said
    assert "validation accuracy" in said
    row = report("half")["results"][-1]
    keys = ["data.samples=200", "data.validation=0.5"]
    again = evaluated(home / "half" / row["model"], *OWN, *keys)
    for key in ("accuracy", "accuracy_train", "accuracy_validation"):
        assert row[key] == again[key]
        loss = "loss_" + (key.removeprefix("accuracy").removeprefix("_") or "test")
        assert row[loss] == pytest.approx(again[loss], rel=1e-5)
