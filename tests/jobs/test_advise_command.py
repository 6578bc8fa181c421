"""``gfs advise`` and ``gfs pretrain stop=enough`` from the outside, and killed in the middle."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist.cli import main
from gfs_dist.files import RunFolder, checkpoint
from gfs_dist.theory import Rule, judge
from gfs_dist.workflows import advise
from tests.jobs.deep_runs import MADE_BY, MODEL, TRAIN, write_factory

TRAINED = [
    "data.samples=200", "model.width=40", "train.iterations=400", "train.checkpoint_every=50",
]  # fmt: skip
DEEP = [*MODEL, *TRAIN[:1], "train.iterations=20", "train.checkpoint_every=10", "train.batch=32"]

KILLED = """
import os, sys
from gfs_dist.config.compose import compose
from gfs_dist.jobs import pretrain
from gfs_dist.workflows import advise
from gfs_dist.workflows.reporter import Reporter

class Deadly(Reporter):
    def note(self, line):
        if line.startswith(f"iteration {sys.argv[1]}:"):
            os.kill(os.getpid(), 9)

if sys.argv[2] == "within":  # after the checkpoint was written, before it is judged
    asked = advise.StopWhenEnough.__call__
    def deadly(self, iteration):
        if str(iteration) == sys.argv[1]:
            os.kill(os.getpid(), 9)
        return asked(self, iteration)
    advise.StopWhenEnough.__call__ = deadly
pretrain.run(compose("pretrain", sys.argv[3:]), Deadly())
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["pretrain", *TRAINED, f"out={run}"]) == 0
    return run


@pytest.fixture(scope="module")
def advised(trained: Path) -> Path:
    out = trained.parent / "advised"
    assert main(["advise", str(trained), f"out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def stopped(trained: Path) -> Path:
    out = trained.parent / "stopped"
    assert main(["pretrain", *TRAINED, "stop=enough", f"out={out}"]) == 0
    return out


def report(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "report.json").read_text()))


def weights(run: Path, iteration: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "checkpoints" / f"step_{iteration:08d}").tensors


def same(first: Path, second: Path, iteration: int) -> bool:
    a, b = weights(first, iteration), weights(second, iteration)
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    found = {str(file.relative_to(folder)): file.stat() for file in files}
    return {name: (status.st_mtime_ns, status.st_size) for name, status in found.items()}


def test_the_run_folder_is_that_of_the_interface(trained: Path, advised: Path) -> None:
    found = report(advised)
    assert (found["job"], found["status"]) == ("advise", "finished")
    advice = found["advice"]
    series = advice["series"]
    assert [row["iteration"] for row in series] == list(range(0, 401, 50))
    assert [row["iteration"] for row in found["results"]] == list(range(0, 401, 50))
    dense = {row["iteration"]: row for row in report(trained)["results"]}
    for row, result in zip(series, found["results"], strict=True):
        assert row["dense"]["loss"] == pytest.approx(dense[row["iteration"]]["loss"], rel=1e-12)
        assert row["dense"]["accuracy"] == dense[row["iteration"]]["accuracy"]
        assert (row["loss"], row["accuracy"]) == (result["loss"], result["accuracy"])
        assert result["kept"] <= 20  # half of the neurons: there are fewer than 400
    assert series[0]["overlap"] is None and all(0 <= row["overlap"] <= 1 for row in series[1:])
    for before, row in itertools.pairwise(series):
        assert row["gain"] == pytest.approx(row["accuracy_train"] - before["accuracy_train"])
    assert (advice["verdict"], advice["since"]) == judge(series, Rule(0.002))[:2]
    assert advice["planned"] == 400
    if advice["since"] is not None:
        assert advice["saved"]["iterations"] == 400 - advice["since"]
        assert advice["saved"]["seconds"] > 0
    page = (advised / "report.md").read_text()
    assert "## Is it trained enough?" in page and "Pre-training up to iteration 400" in page
    assert (advised / "plots" / "enough_pretraining.png").is_file()


def test_json_is_that_of_the_interface(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["distinct=5", "prune_samples=80", "--json"]
    assert main(["advise", str(trained), f"out={tmp_path / 'out'}", *words]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    answer = json.loads(printed)
    assert answer["verdict"] in ("too_early", "enough", "certainly_enough")
    assert (answer["since"] is None) == (answer["verdict"] == "too_early")
    assert len(answer["series"]) == 9
    assert all(row["kept"] <= 5 for row in report(tmp_path / "out")["results"])
    path = json.loads((tmp_path / "out/paths/step_00000400.json").read_text())
    assert path["samples"] == 80
    assert all(80 * row["accuracy_train"] % 1 == pytest.approx(0) for row in answer["series"])


def test_a_run_at_work_is_judged_as_it_stands_and_nothing_is_pruned_twice(
    trained: Path, advised: Path, tmp_path: Path
) -> None:
    growing, out = tmp_path / "growing", tmp_path / "out"
    shutil.copytree(trained, growing)
    (growing / "report.json").unlink()
    later = tmp_path / "later"
    later.mkdir()
    for iteration in range(200, 401, 50):
        name = f"step_{iteration:08d}"
        (growing / "checkpoints" / name).rename(later / name)
    half_written = growing / "checkpoints" / ".writing-step_00000200"
    half_written.mkdir()
    with RunFolder.resume(growing):  # its training holds the lock
        before = stamps(growing)
        assert main(["advise", str(growing), f"out={out}"]) == 0
        assert stamps(growing) == before
        assert [row["iteration"] for row in report(out)["advice"]["series"]] == [0, 50, 100, 150]
        first = {name: at for name, at in stamps(out).items() if name.startswith("models/")}
        for place in later.iterdir():
            place.rename(growing / "checkpoints" / place.name)
        assert main(["advise", f"resume={out}"]) == 0
    found = report(out)
    assert {name: at for name, at in stamps(out).items() if name in first} == first
    whole = report(advised)
    assert [row["picks_sha256"] for row in found["results"]] == [
        row["picks_sha256"] for row in whole["results"]
    ]
    for row, expected in zip(found["advice"]["series"], whole["advice"]["series"], strict=True):
        assert row == expected


def test_checkpoints_of_another_training_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(trained, run)
    assert main(["advise", str(run), f"out={out}"]) == 0
    shutil.rmtree(run)
    assert main(["pretrain", *TRAINED, "seed=1", "data.seed=0", f"out={run}"]) == 0
    assert main(["advise", f"resume={out}"]) == 2
    assert "the checkpoint changed since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/none"], "path: found runs/none, accepted a run folder"),
        (["{advised}"], "is not a configuration of gfs pretrain"),
        (["{trained}", "budget.macs=50%"], "budget.macs: .* accepted with deep networks only"),
        (["{trained}", "distinct=41"], "distinct: found 41"),
        (["{trained}", "threshold=0"], "threshold: found 0"),
        (["{trained}", "prune_samples=500"], "gfs: prune_samples: 500 needs .* of class"),
        (["{trained}", "prune_samples=2"], "all 2 samples are of one class .* with prune_samples"),
        (["{trained}", "factory=x.y:z"], "factory: found x.y:z, accepted .* has model=two_layer"),
        (["{trained}", "objective=fisher"], "objective: found 'fisher', accepted squared"),
        (["{trained}", "workers=2", "runtime=none"], "workers: found 2, accepted 1"),
    ],
)
def test_what_is_refused(
    trained: Path,
    advised: Path,
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.format(trained=trained, advised=advised) for word in words]
    assert main(["advise", *given, f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_stop_enough_trains_the_same_network_for_fewer_iterations(
    trained: Path, stopped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    found = report(out)
    advice = found["advice"]
    last = found["results"][-1]["iteration"]
    assert advice["verdict"] == "enough" and advice["since"] == last < 400
    assert advice["saved"]["iterations"] == 400 - last
    assert advice["saved"]["share"] == pytest.approx(1 - last / 400)
    for iteration in range(0, last + 1, 50):
        assert same(out, trained, iteration)
    assert report(out / "advice")["advice"]["series"] == advice["series"]
    assert "Pre-training up to iteration" in (out / "report.md").read_text()
    assert main(["pretrain", f"resume={out}"]) == 0  # it stays as it is
    assert report(out)["advice"]["since"] == last
    assert report(out)["results"] == found["results"]


@pytest.mark.parametrize("moment", ["100 within", "50 after"])
def test_killed_it_decides_the_same(moment: str, stopped: Path, tmp_path: Path) -> None:
    words, out = [*TRAINED, "stop=enough"], tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, *moment.split(), *words, f"out={out}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert main(["pretrain", f"resume={out}"]) == 0
    found, expected = report(out), report(stopped)
    assert found["results"] == expected["results"]
    assert found["advice"]["series"] == expected["advice"]["series"]
    assert found["advice"]["since"] == expected["advice"]["since"]


def test_a_deep_network_stops_and_is_judged_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_factory(tmp_path)
    assert main(["pretrain", *DEEP, "out=whole"]) == 0
    with monkeypatch.context() as patch:  # its own rule would take many more checkpoints
        patch.setattr(advise.Adviser, "_rule", lambda *_: Rule(threshold=0.9))
        assert main(["pretrain", *DEEP, "stop=enough", "out=stopped"]) == 0
    stopped = report(tmp_path / "stopped")
    assert [row["iteration"] for row in stopped["results"]] == [0, 10]
    assert (stopped["advice"]["since"], stopped["advice"]["saved"]["iterations"]) == (10, 10)
    assert same(Path("whole"), Path("stopped"), 10)
    assert main(["advise", "whole", "out=refused"]) == 2  # its factory is code: to be named
    size = ["calibration.samples=60", "budget.macs=60%"]
    assert main(["advise", "whole", MADE_BY, *size, "out=advised"]) == 0
    found = report(tmp_path / "advised")["advice"]
    assert [row["iteration"] for row in found["series"]] == [0, 10, 20]
    assert all(0 <= row["overlap"] <= 1 for row in found["series"][1:])
    assert found["planned"] == 20
    assert "held-out" in found["rule"] and "2 checkpoints in a row" in found["rule"]
