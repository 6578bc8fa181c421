"""``gfs pretrain`` from the outside, and killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist import data, networks
from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.errors import StorageError
from gfs_dist.files import checkpoint
from gfs_dist.jobs import pretrain
from gfs_dist.workflows import two_layer
from gfs_dist.workflows.reporter import Reporter
from tests.jobs.deep_runs import forget_checksums

SMALL = ["data.samples=200", "model.width=20", "train.iterations=25", "train.checkpoint_every=10"]
SGD = [*SMALL, "train=sgd", "train.batch=32"]

KILLED = """
import os, sys
from gfs_dist.files import atomic
from gfs_dist.jobs import pretrain
from gfs_dist.config.compose import compose
from gfs_dist.workflows.reporter import Reporter

class Deadly(Reporter):
    def step(self, done, *_, **__):
        if sys.argv[1] == f"step {done}":
            os.kill(os.getpid(), 9)

replacing = atomic.replacing
def deadly(path, **how):
    if sys.argv[1] == f"write {path.name}" and "step_00000010" in str(path):
        path.write_bytes(b"torn")
        os.kill(os.getpid(), 9)
    return replacing(path, **how)
atomic.replacing = deadly
pretrain.run(compose("pretrain", sys.argv[2:]), Deadly())
"""


def train(*words: str) -> int:
    return main(["pretrain", *words])


def weights(folder: Path, iteration: int = 25) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints" / f"step_{iteration:08d}").tensors


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


def test_the_run_folder_is_that_of_the_interface(tmp_path: Path) -> None:
    assert train(*SMALL, f"out={tmp_path / 'run'}") == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["format"], report["job"], report["status"]) == (1, "pretrain", "finished")
    assert [row["iteration"] for row in report["results"]] == [0, 10, 20, 25]
    assert report["dense"] == {
        key: report["results"][-1][key]
        for key in (
            "loss", "accuracy", "accuracy_train", "loss_train", "loss_test", "macs", "params",
        )
    }  # fmt: skip
    assert report["dense"]["macs"] == 20 * 65
    assert report["results"][0]["loss"] > report["results"][-1]["loss"]
    assert {"total_s", "train_s"} <= set(report["timing"])
    page = (tmp_path / "run/report.md").read_text()
    assert "25 iterations of training took the accuracy" in page
    assert (tmp_path / "run/report.html").exists()
    rows = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 10, 20, 25, 25]
    assert all(
        list(row) == ["time", "event", "generation", "rank", "pid", "host", "step"] for row in rows
    )
    for row in report["results"]:
        state = checkpoint.load(tmp_path / "run" / row["model"]).state
        assert state["iteration"] == row["iteration"]
        assert state["loss"] == pytest.approx(row["loss"], rel=1e-12)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("step 3", SMALL),
        ("step 24", SGD),
        ("write model.safetensors", SGD),
        ("write state.json", [*SGD, "train.precision=float32"]),
    ],
)
def test_killed_anywhere_it_goes_on_to_the_same_bits(
    tmp_path: Path, moment: str, words: list[str]
) -> None:
    assert train(*words, f"out={tmp_path / 'whole'}") == 0
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, moment, *words, f"out={out}"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert train(f"resume={out}") == 0
    assert same(weights(out), weights(tmp_path / "whole"))
    report = json.loads((out / "report.json").read_text())
    assert report["status"] == "finished"
    assert [row["iteration"] for row in report["results"]] == [0, 10, 20, 25]
    assert not list(out.rglob(".writing-*"))


@pytest.mark.parametrize("objective", ["squared", "bce"])
def test_what_was_trained_in_float32_is_stored_and_pruned(tmp_path: Path, objective: str) -> None:
    run, out, words = tmp_path / "run", tmp_path / "out", [*SGD, f"objective={objective}"]
    assert train(*words, "train.precision=float32", f"out={run}") == 0
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32}
    found = ["runtime=none", "steps=12", "data.samples=200", "verify=true", f"out={out}"]
    assert main(["prune", f"checkpoint={run}", f"objective={objective}", *found]) == 0
    row = json.loads((out / "report.json").read_text())["results"][-1]
    path = json.loads((out / row["path"]).read_text())
    assert row["loss"] == pytest.approx(path["loss"][-1], rel=1e-6)
    assert networks.load(out / row["model"]).hidden.weight.dtype == torch.float32
    assert row["dense"]["loss"] == pytest.approx(path["dense_loss"], rel=1e-12)
    assert main(["evaluate", str(out / row["model"]), "data.samples=200"]) == 0


def test_a_checkpoint_of_a_version_without_precisions_is_gone_on_from(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(*SMALL, f"out={out}") == 0
    before = weights(out)
    shutil.rmtree(out / "checkpoints/step_00000025")
    state = json.loads((file := out / "checkpoints/step_00000020/state.json").read_text())
    assert state["training"].pop("train.precision") is None
    file.write_text(json.dumps(state))
    forget_checksums(out)
    assert train(f"resume={out}") == 0
    assert same(weights(out), before)


def test_a_finished_run_may_be_resumed_and_stays(tmp_path: Path) -> None:
    train(*SMALL, f"out={tmp_path / 'run'}")
    before = weights(tmp_path / "run")
    assert train(f"resume={tmp_path / 'run'}") == 0
    assert same(weights(tmp_path / "run"), before)


def test_an_interrupted_run_says_so_and_can_go_on(tmp_path: Path) -> None:
    class Interrupting(Reporter):
        def step(self, done: int, *_: Any, **__: Any) -> None:
            if done == 12:
                raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(compose("pretrain", [*SMALL, f"out={out}"]), Interrupting())
    assert json.loads((out / "report.json").read_text())["status"] == "stopped"
    assert train(f"resume={out}") == 0


def test_another_configuration_is_refused_by_key(tmp_path: Path, capsys: Any) -> None:
    train(*SMALL, f"out={tmp_path / 'run'}")
    assert train(f"resume={tmp_path / 'run'}", "model.width=30") == 2
    assert "model.width: found 30, the run folder has 20" in capsys.readouterr().err


def test_a_network_that_memory_cannot_hold_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert train(*SMALL, "model.width=1000000000", f"out={tmp_path / 'run'}") == 2
    assert "model.width: found 1000000000, which takes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_checkpoints_of_other_settings_are_refused_by_name(tmp_path: Path, capsys: Any) -> None:
    train(*SMALL, f"out={tmp_path / 'run'}")
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace("checkpoint_every: 10", "checkpoint_every: 5"))
    assert train(f"resume={tmp_path / 'run'}") == 2
    assert "run/config.yaml is not what it was" in capsys.readouterr().err
    forget_checksums(tmp_path / "run")
    assert train(f"resume={tmp_path / 'run'}") == 2
    assert "train.checkpoint_every changed since" in capsys.readouterr().err


def test_data_that_changed_is_refused_by_name(tmp_path: Path, capsys: Any) -> None:
    pixels, labels = bytes(range(256)) * 784, bytes(index % 10 for index in range(256))
    for split in ("train", "t10k"):
        images = struct.pack(">4I", 2051, 256, 28, 28) + pixels
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2I", 2049, 256) + labels
        )
    words = ["data=mnist", f"data.root={tmp_path}", "model.width=4", "train.iterations=1"]
    assert train(*words, f"out={tmp_path / 'run'}") == 0
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 256) + labels[::-1])
    two_layer._load.cache_clear()  # as in a process of its own
    assert train(f"resume={tmp_path / 'run'}") == 2
    assert "resume: data=mnist changed since" in capsys.readouterr().err


def test_a_full_disk_is_told_as_itself_and_leaves_whole_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, full = os.fsync, False

    def full_from_the_third_checkpoint(descriptor: int) -> None:
        nonlocal full
        full = full or bool(list(tmp_path.glob("run/checkpoints/.writing-step_00000020*")))
        if full:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_from_the_third_checkpoint)
    config = compose("pretrain", [*SMALL, f"out={tmp_path / 'run'}"])
    with pytest.raises(StorageError, match=r"step_00000020/model.safetensors: .*No space left"):
        pretrain.run(config, Reporter())
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints", "config.yaml", "events.jsonl",
    ]  # fmt: skip
    assert train(f"resume={tmp_path / 'run'}") == 0


def test_divergence_is_a_failed_run(tmp_path: Path, capsys: Any) -> None:
    words = [*SMALL, "model.activation=identity", "train.lr=1e9", f"out={tmp_path / 'run'}"]
    assert train(*words) == 1
    assert "training diverged: the loss is" in capsys.readouterr().err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["status"] == "failed"
    assert "take a smaller train.lr" in report["error"]


def test_a_loss_that_rises_is_told_at_once_and_at_the_end(tmp_path: Path, capsys: Any) -> None:
    words = [*SMALL, "train.lr=300", f"out={tmp_path / 'run'}"]
    assert train(*words) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    first, last = report["results"][0]["loss"], report["results"][-1]["loss"]
    assert last > first
    told = f"has risen from {first:.5g} (iteration 0) to {last:.5g} (iteration 25); take a smaller "
    [note] = report["notes"]
    assert note == f"training: the loss {told}train.lr than 300"
    assert note in (tmp_path / "run" / "report.md").read_text()
    said = capsys.readouterr().out
    assert note in said
    assert said.index("(iteration 0) to") < said.index("(iteration 25)")
    assert train(*SMALL, f"out={tmp_path / 'calm'}") == 0
    assert json.loads((tmp_path / "calm" / "report.json").read_text())["notes"] == []


@pytest.mark.parametrize("words", [SMALL, SGD])
def test_the_step_size_is_measured_once_and_kept(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "run"
    assert train(*words, f"out={out}") == 0
    lr = checkpoint.load(out / "checkpoints/step_00000000").state["training"]["train.lr"]
    assert f"lr {lr:g} (from the curvature at the start)" in capsys.readouterr().out
    monkeypatch.setattr("gfs_dist.workflows.train_two_layer.default_lr", lambda *_: 2 * lr)
    before = weights(out)
    shutil.rmtree(out / "checkpoints/step_00000025")
    forget_checksums(out)
    assert train(f"resume={out}") == 0  # this machine would measure another
    assert same(weights(out), before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.lr=3", "train.step_share=0.5"], "train.step_share: found 0.5 with train.lr=3"),
        (
            ["train.step_share=2"],
            "train.step_share: found 2, accepted a number, above 0",
        ),
        (
            ["model=resnet20_cifar", "train.step_share=1"],
            "train.step_share: accepted with",
        ),
        (
            ["model=resnet20_cifar", "train=sgd", "train.precision=float32"],
            "train.precision: accepted with model=two_layer, not deep networks, which have",
        ),
        (
            ["train.precision=half"],
            "train.precision: found 'half', accepted float64, float32, or null",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    words: list[str], message: str, capsys: Any
) -> None:
    assert train(*words, "--dry-run") == 2
    assert message in capsys.readouterr().err


def test_a_finished_training_of_a_version_that_kept_no_step_size_is_read(
    tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "run"
    assert train(*SMALL, f"out={out}") == 0
    before = weights(out)
    forget_checksums(out)
    for file in out.glob("checkpoints/*/state.json"):
        state = json.loads(file.read_text())
        state["training"]["train.lr"] = None
        file.write_text(json.dumps(state))
    assert train(f"resume={out}") == 0
    assert same(weights(out), before)
    forget_checksums(out)
    shutil.rmtree(out / "checkpoints/step_00000025")
    assert train(f"resume={out}") == 2  # whose step is not known cannot go on
    assert "train.lr changed" in capsys.readouterr().err


def test_a_share_of_the_measured_step_is_taken(tmp_path: Path) -> None:
    kept = []
    for share in (1, 0.25):
        assert train(*SMALL, f"train.step_share={share}", f"out={tmp_path / str(share)}") == 0
        found = checkpoint.load(tmp_path / str(share) / "checkpoints/step_00000000")
        kept.append(found.state["training"]["train.lr"])
    assert kept[1] == pytest.approx(kept[0] / 4)


def test_synthetic_training_starts_at_the_planted_network(tmp_path: Path) -> None:
    words = ["data=synthetic", "data.samples=100", "model.width=30", "train.iterations=1"]
    assert train(*words, f"out={tmp_path / 'run'}") == 0
    planted = data.load(data.DataSpec("synthetic", samples=100), width=30).planted
    assert planted is not None
    assert torch.equal(weights(tmp_path / "run", 0)["hidden.weight"], planted.hidden)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: Any) -> None:
    assert train(*SMALL, f"out={tmp_path / 'run'}", "--dry-run") == 0
    assert "20 tanh neurons" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_threads_are_set_for_the_job_alone(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []

    class Watching(Reporter):
        def step(self, *_: Any, **__: Any) -> None:
            seen.append(torch.get_num_threads())

    pretrain.run(compose("pretrain", [*SMALL, "threads=3", f"out={tmp_path / 'r'}"]), Watching())
    assert set(seen) == {3}
    assert torch.get_num_threads() == before


def test_the_stored_network_computes_what_was_measured(tmp_path: Path) -> None:
    train(*SMALL, f"out={tmp_path / 'run'}")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = checkpoint.load(tmp_path / "run" / report["results"][-1]["model"])
    network = networks.load_tensors(found.state["architecture"], found.tensors, "here")
    digits, dense = data.load(data.DataSpec(samples=200)), report["dense"]
    for x, labels, ending in (
        (digits.x_test, digits.labels_test, ""),
        (digits.x_train, digits.labels_train, "_train"),
    ):
        outputs, target = network(x).detach(), data.target(labels, "squared")
        assert networks.accuracy(outputs, target) == dense[f"accuracy{ending}"]
        loss = float((outputs - target).square().mean()) / 2
        assert loss == pytest.approx(dense[f"loss{ending or '_test'}"])
