"""``gfs pretrain`` of deep networks from the outside, and killed in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist import data, networks
from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.data import DataSpec
from gfs_dist.errors import ConfigError
from gfs_dist.files import checkpoint
from gfs_dist.jobs import pretrain
from gfs_dist.training import DeepSpec
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.train_deep import deep_spec
from tests.jobs.deep_runs import MODEL, TRAIN, forget_checksums, report, write_factory
from tests.jobs.test_pretrain_command import KILLED, same, weights

SMALL = [*MODEL, *TRAIN]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with a factory in it."""
    write_factory(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*words: str) -> int:
    return main(["pretrain", *words])


def test_the_run_folder_is_that_of_the_interface(folder: Path) -> None:
    assert train(*SMALL, "out=run") == 0
    found = report(folder / "run")
    assert (found["format"], found["job"], found["status"]) == (1, "pretrain", "finished")
    assert [row["iteration"] for row in found["results"]] == [0, 10, 20, 25]
    assert found["dense"] == {
        key: found["results"][-1][key]
        for key in (
            "loss", "accuracy", "accuracy_train", "loss_train", "loss_test", "macs", "params",
        )
    }  # fmt: skip
    assert found["dense"]["macs"] == 64 * 8 * 9 + 16 * 6 * 8 * 9 + 96 * 10
    assert found["dense"]["accuracy"] > 0.5 > found["results"][0]["accuracy"]
    assert found["results"][1]["loss"] > found["results"][-1]["loss"]
    assert {"total_s", "setup_s", "steps_s", "ranks"} <= set(found["timing"])
    page = (folder / "run/report.md").read_text()
    assert "25 iterations of training took the accuracy" in page
    assert "mean over the mini-batches since the checkpoint before" in page
    assert (folder / "run/report.html").exists()
    rows = [json.loads(line) for line in (folder / "run/events.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["event"] == "step"] == [0, 10, 20, 25]
    assert {row["event"] for row in rows} == {"rank_started", "step", "finished"}
    for row in found["results"]:
        state = checkpoint.load(folder / "run" / row["model"]).state
        for key in ("iteration", "loss", "accuracy", "accuracy_train", "loss_test"):
            assert state[key] == row[key]
        assert state["architecture"]["factory"] == "tiny_digits:make"


def test_a_network_of_the_catalog_is_trained_and_classifies_as_reported(folder: Path) -> None:
    words = ["model=resnet20_cifar", "data.samples=100", "train.iterations=3", "train.batch=20"]
    assert train(*words, "train.checkpoint_every=2", "train.amp=true", "out=run") == 0
    found = report(folder / "run")
    network = networks.make("resnet20_cifar", 10, 1)
    networks.load_state(network, weights(folder / "run", 3), "here")
    digits = data.load_images(DataSpec())
    measured = networks.classify(network, [(digits.inputs(digits.x_test), digits.labels_test)])
    assert measured.accuracy == found["dense"]["accuracy"]
    assert measured.loss == pytest.approx(found["dense"]["loss_test"], rel=1e-5)
    digits = data.load_images(DataSpec(samples=100))
    measured = networks.classify(network, [(digits.inputs(digits.x_train), digits.labels_train)])
    assert measured.accuracy == found["dense"]["accuracy_train"]
    assert found["dense"]["params"] == networks.count_params(network)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("step 3", ["train.amp=true"]),
        ("step 24", ["train.augment=true"]),
        ("write optimizer.safetensors", []),
    ],
)
def test_killed_anywhere_it_goes_on_to_the_same_bits(
    folder: Path, moment: str, words: list[str]
) -> None:
    assert train(*SMALL, *words, "out=whole") == 0
    command = [sys.executable, "-c", KILLED, moment, *SMALL, *words, "out=killed"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert train("resume=killed", MODEL[1]) == 0
    for iteration in (10, 20, 25):
        assert same(weights(folder / "killed", iteration), weights(folder / "whole", iteration))
    rows = report(folder / "killed")["results"]
    assert [row["iteration"] for row in rows] == [0, 10, 20, 25]
    assert rows == report(folder / "whole")["results"]


def test_a_finished_run_may_be_resumed_and_stays(folder: Path) -> None:
    train(*SMALL, "out=run")
    before = weights(folder / "run")
    assert train("resume=run", MODEL[1]) == 0
    assert same(weights(folder / "run"), before)
    assert report(folder / "run")["status"] == "finished"


def test_an_interrupted_run_says_so_and_can_go_on(folder: Path) -> None:
    class Interrupting(Reporter):
        def step(self, done: int, *_: Any, **__: Any) -> None:
            if done >= 12:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain.run(compose("pretrain", [*SMALL, "out=run"]), Interrupting())
    assert report(folder / "run")["status"] == "stopped"
    assert train("resume=run", MODEL[1]) == 0


def test_progress_tells_loss_and_the_last_checkpoints_accuracy() -> None:
    seen: list[tuple[int, float, float | None]] = []

    class Watching(Reporter):
        def step(self, done: int, loss: Any = None, *_: Any, accuracy: Any = None) -> None:
            seen.append((done, loss, accuracy))

    pretrain.run(compose("pretrain", [*SMALL, "out=run"]), Watching())
    assert [done for done, _, _ in seen] == list(range(1, 26))
    assert all(loss > 0 for _, loss, _ in seen)
    rows = report(Path("run"))["results"]
    assert [accuracy for _, _, accuracy in seen[8:11]] == [
        rows[0]["accuracy"], rows[1]["accuracy"], rows[1]["accuracy"],
    ]  # fmt: skip


def test_without_train_keys_it_is_the_papers_recipe() -> None:
    config = compose("pretrain", ["model=resnet34_cifar", "data=cifar10", "data.root=x", "seed=3"])
    spec = deep_spec(config.train, config.seed)
    assert spec == DeepSpec(
        iterations=80_000, lr=0.1, batch=128, momentum=0.9, weight_decay=5e-4, seed=3
    )


def test_two_layer_networks_keep_their_own_defaults() -> None:
    assert compose("pretrain").train.method == "gd"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model=resnet20_cifar train=gd", r"^train: found gd, accepted sgd with model=resnet20"),
        ("workers=2", r"^workers: found 2, accepted 1 with model=two_layer$"),
        ("train=sgd train.amp=true", r"^train.amp: accepted with deep networks, not model=two"),
        ("model=resnet20_cifar runtime=none workers=2", r"^workers: found 2, accepted 1 with runt"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("pretrain", words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.kwargs={classes: 7}"], r"its output is (1, 7), accepted (1, 10), a logit for eve"),
        (["model.kwargs={depth: 3}"], "model.factory: tiny_digits:make raised TypeError"),
        (["model.factory=tiny_digits:fail"], "raised ValueError: no weights today"),
        (["data=npz", "data.path=colour.npz"], "fails on an input of shape (3, 8, 8): "),
    ],
)
def test_networks_that_do_not_fit_are_refused_before_anything_is_written(
    folder: Path, capsys: Any, words: list[str], message: str
) -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 3, 8, 8), generator=draws).to(torch.uint8).numpy()
    arrays = {"x_train": images, "x_test": images}
    labels = (torch.arange(20) % 10).numpy()
    import numpy as np

    np.savez(folder / "colour.npz", **arrays, y_train=labels, y_test=labels)
    model = [word for word in MODEL if not word.startswith("data.")]
    assert train(*model, *words, "out=run") == 2
    assert message in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_another_configuration_or_other_checkpoints_are_refused_by_key(
    folder: Path, capsys: Any
) -> None:
    train(*SMALL, "out=run")
    assert train("resume=run", MODEL[1], "train.batch=16") == 2
    assert "train.batch: found 16, the run folder has 32" in capsys.readouterr().err
    file = folder / "run" / "config.yaml"
    file.write_text(file.read_text().replace("momentum: 0.9", "momentum: 0.5"))
    forget_checksums(folder / "run")
    assert train("resume=run", MODEL[1]) == 2
    assert "resume: train.momentum changed since" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", *SMALL],
        ["pretrain"],
        ["finetune", "path=net.pt", *SMALL],
        ["prune"],
        ["prune", "--dry-run"],
    ],
)
def test_a_gpu_that_is_not_there_is_refused_before_any_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (folder / "net.pt").touch()
    assert main([*words, "device=cuda", "out=run"]) == 2
    assert "device: found cuda, accepted here auto, cpu" in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_divergence_is_a_failed_run(folder: Path, capsys: Any) -> None:
    assert train(*SMALL, "train.lr=1e30", "out=run") == 1
    assert "training diverged: the loss is" in capsys.readouterr().err
    assert report(folder / "run")["status"] == "failed"


def test_a_dry_run_tells_the_plan_and_writes_nothing(folder: Path, capsys: Any) -> None:
    assert train(*SMALL, "out=run", "--dry-run") == 0
    plan = capsys.readouterr().out
    assert "200 samples of 1 x 8 x 8 to train on, 360 to test on, 10 classes" in plan
    assert "25 iterations (3.6 epochs) of 32 samples, lr 0.1 to 0 (cosine)" in plan
    assert not (folder / "run").exists()


@pytest.mark.parametrize("runtime", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_two_ranks_train_what_one_trains_and_a_lost_one_is_replaced(
    folder: Path, runtime: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = [*SMALL, "model.kwargs={norm: false}"]
    assert train(*words, "out=one") == 0
    two = [*words, f"runtime={runtime}", "workers=2", "threads=1"]
    assert train(*two, "out=two") == 0
    for name, tensor in weights(folder / "one").items():
        torch.testing.assert_close(weights(folder / "two")[name], tensor, rtol=1e-3, atol=1e-5)
    rows = [json.loads(line) for line in (folder / "two/events.jsonl").read_text().splitlines()]
    assert {row["rank"] for row in rows if row["event"] == "rank_started"} == {0, 1}
    pids = {row["pid"] for row in rows if row["event"] == "step"}
    assert pids == {row["pid"] for row in rows if row["event"] == "rank_started"} - {
        row["pid"] for row in rows if row["rank"] == 1
    }

    monkeypatch.setenv("GFS_FAULTS", '[{"rank": 1, "step": 13}]')
    capsys.readouterr()
    assert train(*two, "out=faulty") == 0
    assert "rank 1 was killed at step" in capsys.readouterr().out
    assert same(weights(folder / "faulty"), weights(folder / "two"))
    found = report(folder / "faulty")
    assert [(row["rank"], row["kind"]) for row in found["faults"]] == [(1, "killed")]
    assert found["results"] == report(folder / "two")["results"]
