"""``gfs prune repair.streams=true``: from its keys to its report, killed and resumed, cut again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import gfs_dist
from gfs_dist import networks
from gfs_dist.cli import main
from gfs_dist.pruning.repair.stream_training import StreamSpec
from tests.jobs.deep_runs import (
    ALONE,
    FACTORY,
    MADE_BY,
    forget_checksums,
    outcome,
    prune,
    report,
    tensors,
)

STREAMS = [*ALONE, "repair.streams=true", "repair.steps=30", "budget.trials=1"]


@pytest.fixture(scope="module")
def repaired(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its streams repaired."""
    out = tmp_path_factory.mktemp("streams") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(home)
        prune(out, *STREAMS)
    return out


def without_times(out: Path) -> list[dict[str, Any]]:
    rows = outcome(out)
    for row in rows:
        row["streams"] = {**row["streams"], "seconds": None}
    return rows


def test_the_report_tells_what_it_took_and_keeps_the_refit(repaired: Path) -> None:
    [row] = report(repaired)["results"]
    assert [*row["accuracy_after"]] == ["cut", "refit", "streams"]
    assert row["accuracy_after"]["streams"] == row["accuracy"]
    seconds = row["streams"].pop("seconds")
    assert seconds > 0
    assert row["streams"] == {"samples": 60, "steps": 30}
    page = (repaired / "report.md").read_text()
    assert "stream repair" in page
    assert "without labels, 30 steps on 60 calibration images" in page
    assert "stream repair" in (repaired / row["model"] / "README.md").read_text()
    assert not list((repaired / "streams").iterdir())
    network = gfs_dist.load(repaired / row["model"])
    assert networks.count_params(network) == row["params"]


def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    repaired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step_at, iterations = tmp_path / "run", StreamSpec.step_at, list[int]()

    def stop(spec: StreamSpec, iteration: int) -> float:
        iterations.append(iteration)
        if iteration == 25 and len(iterations) == 26:
            raise KeyboardInterrupt
        return step_at(spec, iteration)

    monkeypatch.setattr(StreamSpec, "step_at", stop)
    assert main(["prune", f"out={out}", *STREAMS]) == 130
    assert main(["prune", f"resume={out}", FACTORY]) == 0
    assert iterations == [*range(26), *range(20, 30)]
    assert without_times(out) == without_times(repaired)


def test_a_run_is_cut_again_with_its_streams_or_without(repaired: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(repaired, run)
    words = ["cut", str(run), MADE_BY, "budget.macs=40%", "budget.trials=1"]
    assert main([*words, "name=as_before"]) == 0
    assert main([*words, "name=more", "repair.steps=40"]) == 0
    assert main([*words, "name=without", "repair.streams=false"]) == 0
    _, before, more, without = report(run)["results"]
    assert (before["streams"]["steps"], more["streams"]["steps"]) == (30, 40)
    assert "streams" not in without
    assert [*without["accuracy_after"]] == ["cut", "refit"]
    assert without["accuracy"] == before["accuracy_after"]["refit"]
    kept = [[layer["kept"] for layer in row["layers"]] for row in (before, more, without)]
    assert kept[0] == kept[1] == kept[2]


def test_a_run_without_is_cut_with_streams(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    config = (run / "config.yaml").read_text()
    younger = "  streams: false\n  steps: null\n"  # an earlier version knew nothing of these
    assert younger in config
    (run / "config.yaml").write_text(config.replace(younger, ""))
    forget_checksums(run)
    words = ["cut", str(run), MADE_BY, "budget.keep=50%"]
    assert main([*words, "repair.steps=7"]) == 2
    assert "repair.steps: found 7, accepted with repair.streams=true" in capsys.readouterr().err
    assert main([*words, "repair.streams=true", "repair.steps=7"]) == 0
    assert report(run)["results"][1]["streams"]["steps"] == 7


def test_the_plan_tells_what_it_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*ALONE, "repair.streams=true", "--dry-run"]
    assert main(["prune", f"out={tmp_path / 'run'}", *words]) == 0
    told = capsys.readouterr().out
    assert ", stream repair" in told
    assert "streams   200 steps of 60 calibration images, without labels;" in told


def test_two_ranks_repair_alike(repaired: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [word for word in STREAMS if word != "runtime=none"]
    prune(out, *words, "runtime=local", "workers=2")
    assert without_times(out) == without_times(repaired)
    [row] = report(out)["results"]
    assert tensors(out, row).keys() == tensors(repaired, row).keys()
