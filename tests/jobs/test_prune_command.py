"""``gfs prune`` from the outside: what a user types, what lies in the run folder, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import gfs_dist
from gfs_dist.cli import main
from gfs_dist.data import DataSpec
from gfs_dist.workflows.two_layer import Inputs
from tests.jobs.deep_runs import command, elsewhere, forget_checksums, prune

SMALL = [
    "data.samples=200",
    "model.width=40",
    "train.iterations=20",
    "train.checkpoint_every=10",
    "steps=15",
]
ALONE = [*SMALL, "runtime=none"]


def hashes(report: dict[str, Any]) -> list[str]:
    return [row["picks_sha256"] for row in report["results"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A finished run in this process, to compare others with."""
    out = tmp_path_factory.mktemp("prune") / "run"
    prune(out, *ALONE)
    return out


def test_the_report_has_the_promised_keys(undisturbed) -> None:
    report = json.loads((undisturbed / "report.json").read_text())
    assert report["format"] == 1
    assert (report["job"], report["status"]) == ("prune", "finished")
    measured = {"loss", "accuracy", "accuracy_train", "loss_train", "loss_test", "macs", "params"}
    assert set(report["dense"]) == measured
    assert {"total_s", "setup_s", "steps_s", "exchange_s", "ranks"} <= set(report["timing"])
    assert report["faults"] == []
    assert report["machine"]
    assert report["versions"]
    assert [row["iteration"] for row in report["results"]] == [0, 10, 20]
    promised = {
        "name", "iteration", "objective", "kept", "loss", "accuracy", "macs", "params",
        "accuracy_after", "path", "model", "picks_sha256", "dense",
    }  # fmt: skip
    for row in report["results"]:
        assert promised <= set(row)
        assert (undisturbed / row["path"]).is_file()
        assert (undisturbed / row["model"] / "model.safetensors").is_file()
    assert report["results"][-1]["dense"] == report["dense"]


def test_the_path_file_has_the_promised_keys(undisturbed) -> None:
    report = json.loads((undisturbed / "report.json").read_text())
    path = json.loads((undisturbed / report["results"][-1]["path"]).read_text())
    assert path["format"] == 1
    assert (path["neurons"], path["samples"]) == (40, 200)
    assert (path["objective"], path["weights"]) == ("squared", "uniform")
    assert len(path["picks"]) == len(path["loss"]) == len(path["step_sizes"]) == 15
    assert len(path["gap"]) == 15
    assert len(path["coefficients"]) == 40
    assert sum(path["coefficients"]) == pytest.approx(1.0)
    assert path["dense_loss"] == pytest.approx(report["dense"]["loss"])


def test_the_run_folder_is_complete_and_nothing_else(undisturbed) -> None:
    found = {item.name for item in undisturbed.iterdir() if not item.name.startswith(".")}
    assert found == {
        "config.yaml", "report.json", "report.md", "report.html", "paths", "models",
        "checkpoints", "plots", "logs", "events.jsonl",
    }  # fmt: skip
    assert len(list((undisturbed / "paths").iterdir())) == 3
    assert {p.suffix for p in (undisturbed / "plots").iterdir()} == {".png"}
    rows = [json.loads(line) for line in (undisturbed / "events.jsonl").read_text().splitlines()]
    assert {"time", "event", "generation", "rank", "step"} <= set(rows[-1])
    assert rows[-1]["event"] == "finished"


def test_the_stored_network_is_the_pruned_one(undisturbed) -> None:
    report = json.loads((undisturbed / "report.json").read_text())
    row = report["results"][-1]
    network = gfs_dist.load(undisturbed / row["model"])
    assert network.width == row["kept"] < 40
    x, target = Inputs(DataSpec(samples=200), 40, "tanh", "squared")()
    with torch.no_grad():
        outputs = network(x)
        loss = float((outputs - target).square().mean()) / 2
    assert loss == pytest.approx(row["loss"], rel=1e-9)
    assert row["loss_train"] == row["loss"]
    assert row["accuracy_train"] == float(((outputs > 0) == (target > 0)).double().mean())
    path = json.loads((undisturbed / row["path"]).read_text())
    assert loss == pytest.approx(path["loss"][-1], rel=1e-9)


def test_lemma_1_holds_along_every_path(undisturbed) -> None:
    report = json.loads((undisturbed / "report.json").read_text())
    for row in report["results"]:
        losses = json.loads((undisturbed / row["path"]).read_text())["loss"]
        assert len(row["theory"]["bound"]) == len(losses)
        assert all(b >= loss - 1e-9 for b, loss in zip(row["theory"]["bound"], losses, strict=True))


@pytest.mark.parametrize(
    "words",
    [
        ["runtime=local", "workers=2"],
        ["runtime=local", "workers=3", "partition=strided", "graph=ring", "method=streaming"],
        ["runtime=local", "workers=4", "method=panel"],
    ],
)
def test_picks_are_the_same_for_any_number_of_workers(undisturbed, tmp_path, words) -> None:
    report = prune(tmp_path / "run", *SMALL, *words)
    assert hashes(report) == hashes(json.loads((undisturbed / "report.json").read_text()))
    assert len(report["timing"]["ranks"]) == int(words[1].removeprefix("workers="))


def test_ray_actors_pick_the_same(undisturbed, tmp_path, embedded_ray) -> None:
    report = prune(tmp_path / "run", *SMALL, "runtime=ray", "workers=2")
    assert hashes(report) == hashes(json.loads((undisturbed / "report.json").read_text()))


def test_more_workers_than_neurons_is_no_problem(tmp_path) -> None:
    words = ["data.samples=50", "model.width=3", "train.iterations=0", "steps=5"]
    few = prune(tmp_path / "few", *words, "runtime=none")
    many = prune(tmp_path / "many", *words, "runtime=local", "workers=4")
    assert hashes(few) == hashes(many)


def test_killed_workers_do_not_change_the_picks(undisturbed, tmp_path) -> None:
    faults = [
        {"rank": 1, "step": 5, "kind": "kill", "generation": 0},
        {"rank": 0, "step": 9, "kind": "kill", "generation": 1},
    ]
    words = [*SMALL, "runtime=local", "workers=2"]
    done = elsewhere("prune", f"out={tmp_path / 'run'}", *words, faults=faults)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert hashes(report) == hashes(json.loads((undisturbed / "report.json").read_text()))
    assert [(row["rank"], row["kind"]) for row in report["faults"]] == [
        (1, "killed"),
        (0, "killed"),
    ]
    assert all(row["recovered_s"] > 0 for row in report["faults"])


@pytest.mark.parametrize("workers", [1, 3])
def test_a_killed_driver_is_resumed_by_any_number_of_workers(
    undisturbed, tmp_path, workers
) -> None:
    out = tmp_path / "run"
    words = [*SMALL, "runtime=local", "workers=2"]
    killed = elsewhere("prune", f"out={out}", *words, faults=[{"rank": -1, "step": 1}])
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "report.json").exists()
    assert main(["prune", f"resume={out}", "runtime=local", f"workers={workers}"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert hashes(report) == hashes(json.loads((undisturbed / "report.json").read_text()))
    assert not list(out.glob("paths/*.partial.json"))


def test_a_finished_run_is_resumed_to_the_same_report(tmp_path) -> None:
    first = prune(tmp_path / "run", *ALONE)
    assert main(["prune", f"resume={tmp_path / 'run'}"]) == 0
    again = json.loads((tmp_path / "run" / "report.json").read_text())
    assert hashes(again) == hashes(first)
    assert [r["loss"] for r in again["results"]] == [r["loss"] for r in first["results"]]


def test_an_interrupted_run_says_how_to_go_on(tmp_path) -> None:
    out = tmp_path / "run"
    words = [*ALONE, "model.width=1000", "steps=100000", "train.iterations=0"]
    began = command("prune", f"out={out}", *words)
    process = subprocess.Popen(began, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("prune "):
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert f"gfs prune resume={out}" in errors
    assert json.loads((out / "report.json").read_text())["status"] == "stopped"


def test_what_changed_meanwhile_is_refused_by_name(tmp_path, capsys) -> None:
    pre, out = tmp_path / "pre", tmp_path / "run"
    assert main(["pretrain", f"out={pre}", *SMALL[:-1]]) == 0
    last = pre / "checkpoints" / "step_00000020"
    prune(out, f"checkpoint={last}", "data.samples=200", "steps=15", "runtime=none")
    other = tmp_path / "other"
    assert main(["pretrain", f"out={other}", *SMALL[:-1], "seed=1"]) == 0
    last.rename(tmp_path / "away")
    (other / "checkpoints" / "step_00000020").rename(last)
    assert main(["prune", f"resume={out}"]) == 2
    assert f"checkpoint: {last}/model.safetensors is not what it was" in capsys.readouterr().err
    forget_checksums(pre)
    assert main(["prune", f"resume={out}"]) == 2
    assert "resume: the checkpoint changed since" in capsys.readouterr().err


def test_a_damaged_path_is_refused(tmp_path, capsys) -> None:
    out = tmp_path / "run"
    report = prune(out, *ALONE, "train.iterations=0")
    file = out / report["results"][0]["path"]
    content = json.loads(file.read_text())
    content["loss"][3] *= 1.01
    file.write_text(json.dumps(content))
    assert main(["prune", f"resume={out}"]) == 2
    assert f"{file} is not what it was" in capsys.readouterr().err
    forget_checksums(out)
    assert main(["prune", f"resume={out}"]) == 2
    assert "the recorded loss of pick 4" in capsys.readouterr().err
    file.write_text('{"format": 1, "picks": [')
    assert main(["prune", f"resume={out}"]) == 2
    assert file.name in capsys.readouterr().err


def test_stop_rules_end_the_search(tmp_path) -> None:
    words = [*SMALL[:-1], "runtime=none", "train.iterations=0"]
    few = prune(tmp_path / "distinct", *words, "steps=500", "distinct=5")["results"][0]
    assert (few["kept"], few["stop_reason"]) == (5, "distinct")
    near = prune(tmp_path / "tolerance", *words, "steps=500", "tolerance=0.01")["results"][0]
    assert near["stop_reason"] == "tolerance"
    assert near["loss"] <= near["dense"]["loss"] + 0.01
    once = prune(tmp_path / "once", *words, "steps=500", "replacement=false")["results"][0]
    assert (once["kept"], once["steps"], once["stop_reason"]) == (40, 40, "exhausted")


def test_distinct_is_reached_without_steps_and_what_is_not_is_told(tmp_path, capsys) -> None:
    words = ["data.samples=200", "model.width=40", "train.iterations=0", "runtime=none"]
    [row] = prune(tmp_path / "with", *words, "distinct=35", "verify=true")["results"]
    assert (row["kept"], row["stop_reason"]) == (35, "distinct")
    assert 700 < row["steps"] <= 735
    assert "new neurons only" in row["theory"]["reason"]
    assert "until 35 distinct neurons; after 700 picks new neurons only" in capsys.readouterr().out
    report = prune(tmp_path / "bounded", *words, "distinct=35", "steps=700")
    [row] = report["results"]
    said = capsys.readouterr().out
    assert "until 35 distinct neurons; at most 700 picks" in said
    told = f"step_00000000: {row['kept']} distinct neurons, not 35: the 700 picks allowed (steps)"
    assert told in said
    assert [note.startswith(told) for note in report["notes"]] == [True]
    assert told in (tmp_path / "bounded/report.md").read_text()
    [row] = prune(tmp_path / "without", *words, "distinct=35", "replacement=false")["results"]
    assert (row["kept"], row["steps"], row["stop_reason"]) == (35, 35, "distinct")


@pytest.mark.parametrize("objective", ["squared", "bce"])
@pytest.mark.parametrize("weights", ["uniform", "line_search"])
def test_verify_agrees_with_the_exhaustive_search(tmp_path, objective, weights) -> None:
    words = [*ALONE, f"objective={objective}", f"weights={weights}", "verify=true"]
    report = prune(tmp_path / "run", *words)
    assert all(row["verified"] for row in report["results"])
    if objective == "bce":
        assert all(0 < row["evaluated_share"] <= 1 for row in report["results"])
        assert "bce" in report["results"][0]["theory"]["reason"]


def test_a_planted_subset_is_found(tmp_path) -> None:
    words = ["data=synthetic", "data.samples=400", "model.width=64", "train.iterations=0"]
    report = prune(tmp_path / "run", *words, "steps=10", "runtime=none")
    path = json.loads((tmp_path / "run" / report["results"][0]["path"]).read_text())
    planted = Inputs(DataSpec("synthetic", samples=400), 64, "tanh", "squared").dataset().planted
    assert sorted(path["picks"]) == planted.support
    assert report["results"][0]["loss"] < 1e-12


def test_partition_and_graph_come_from_files(undisturbed, tmp_path) -> None:
    (tmp_path / "parts.json").write_text(json.dumps([list(range(1, 40)), [0], []]))
    (tmp_path / "edges.json").write_text("[[0, 1], [1, 2]]")
    report = prune(
        tmp_path / "run", *SMALL, "runtime=local", "workers=3",
        f"partition={tmp_path / 'parts.json'}", f"graph={tmp_path / 'edges.json'}",
    )  # fmt: skip
    assert hashes(report) == hashes(json.loads((undisturbed / "report.json").read_text()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distinct=41"], r"distinct: found 41, accepted 1 to 40"),
        (["steps=0"], "steps: found 0, accepted"),
        (["steps=ten"], "steps: found 'ten'|steps: found ten"),
        (["stps=10"], "stps.*steps"),
        (["+steps=10"], "steps is a known key, write it without"),
        (["+zzz=1"], "zzz"),
        (["method=screened"], "method: found 'screened', accepted auto, panel, lazy, streaming"),
        (["data.samples=1"], "data.samples: found 1, accepted"),
        (["data.samples=99999"], "99,?999"),
        (["data=mnist", "data.root=/nonexistent"], "/nonexistent"),
        (["data=cifar"], "data: found cifar, accepted"),
        (["model.activation=tan"], "model.activation.*tan.*accepted"),
        (["checkpoint=/nonexistent"], "/nonexistent"),
        (["workers=3"], "workers: found 3, accepted 1 with runtime=none"),
        (["runtime=local", "workers=2", "partition=random"], "partition: found 'random'"),
        (["runtime=local", "workers=3", "graph=EDGES"], "connected"),
        (["runtime=local", "workers=3", "partition=PARTS"], "accepted"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, capsys, words, message) -> None:
    (tmp_path / "edges.json").write_text("[[0, 1]]")
    (tmp_path / "parts.json").write_text("[[0], [1, 1]]")
    words = [
        word.replace("EDGES", str(tmp_path / "edges.json")).replace(
            "PARTS", str(tmp_path / "parts.json")
        )
        for word in words
    ]
    out = tmp_path / "run"
    assert main(["prune", f"out={out}", *ALONE, *words]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) <= 3
    import re

    assert re.search(message, error), error
    assert not out.exists()


def test_a_run_folder_that_exists_is_refused_and_left_alone(undisturbed, capsys) -> None:
    before = (undisturbed / "report.json").read_bytes()
    assert main(["prune", f"out={undisturbed}", *ALONE]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert (undisturbed / "report.json").read_bytes() == before


def test_a_run_of_another_configuration_is_not_continued(undisturbed, capsys) -> None:
    assert main(["prune", f"resume={undisturbed}", "steps=99"]) == 2
    assert "steps: found 99, the run folder has 15" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_ends_the_run_with_its_name_and_nothing_half_written(tmp_path, capsys) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        assert main(["prune", f"out={disk / 'run'}", *ALONE]) == 1
        error = capsys.readouterr().err
        assert "No space left" in error or "full" in error
        assert str(disk) in error
        for file in disk.rglob("*.json"):
            json.loads(file.read_text())
        assert not list(disk.rglob("*.tmp*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
