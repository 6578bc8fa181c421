"""``export=``: checked before the work, done after all of it, and changeable on resume."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import gfs_dist
from gfs_dist.cli import main
from gfs_dist.errors import RunError
from gfs_dist.workflows import deep_models
from tests.jobs.deep_runs import ALONE, FACTORY, MADE_BY, prune, report

NAME = "step_00000025"


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of a finished run that exported nothing."""
    shutil.copytree(undisturbed, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra ``onnx`` is half installed."""
    find = importlib.util.find_spec

    def spec(name: str, *more: Any) -> Any:
        return None if name in ("onnx", "onnxscript") else find(name, *more)

    monkeypatch.setattr("gfs_dist.networks.storage.export.importlib.util.find_spec", spec)


def assert_computes_the_same(model: Path, file: str) -> None:
    x = torch.rand(3, 1, 8, 8)
    found = torch.export.load(model / file).module()(x)
    torch.testing.assert_close(found, gfs_dist.load(model)(x))


@pytest.mark.usefixtures("no_onnx")
@pytest.mark.parametrize("words", [["export=onnx"], ["export=all"], ["export=onnx", "--dry-run"]])
def test_missing_packages_are_told_before_the_work(words: list[str], capsys: Any) -> None:
    assert main(["prune", *ALONE, "out=never", *words]) == 2
    told = capsys.readouterr()
    assert "export: onnx, onnxscript not installed: pip install 'gfs-dist[onnx]'" in told.err
    assert told.out == ""
    assert not Path("never").exists()


@pytest.mark.usefixtures("no_onnx")
def test_missing_packages_are_told_before_a_cut(run: Path, capsys: Any) -> None:
    before = (run / "report.json").read_bytes()
    assert main(["cut", str(run), MADE_BY, "budget.macs=35%", "export=onnx"]) == 2
    assert "export: onnx, onnxscript not installed" in capsys.readouterr().err
    assert (run / "report.json").read_bytes() == before


def test_a_finished_run_is_exported_on_resume_and_nothing_else_changes(run: Path) -> None:
    before = report(run)["results"]
    assert main(["prune", f"resume={run}", FACTORY, "export=program"]) == 0
    assert report(run)["results"] == before
    assert_computes_the_same(run / "models" / NAME, "model.pt2")


def test_a_cut_is_exported_where_the_run_was_not(run: Path) -> None:
    assert main(["cut", str(run), MADE_BY, "budget.macs=35%", "name=small", "export=program"]) == 0
    assert_computes_the_same(run / "models/small", "model.pt2")
    assert not (run / "models" / NAME / "model.pt2").exists()


def test_an_export_that_fails_loses_nothing(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(*_: object) -> float:
        raise RunError("torch.export: the network cannot be exported: no")

    with monkeypatch.context() as patch:
        patch.setitem(deep_models.FORMS, "program", (fail, "model.pt2"))
        assert main(["prune", *ALONE, f"out={tmp_path / 'run'}", "export=program"]) == 1
    assert "torch.export: the network cannot be exported: no" in capsys.readouterr().err
    failed = report(tmp_path / "run")
    assert failed["status"] == "failed"
    [row], [expected] = failed["results"], report(undisturbed)["results"]
    assert (row["accuracy"], row["picks_sha256"]) == (
        expected["accuracy"],
        expected["picks_sha256"],
    )
    assert main(["prune", f"resume={tmp_path / 'run'}", FACTORY, "export=none"]) == 0
    assert report(tmp_path / "run")["status"] == "finished"


def test_asked_for_at_once_it_is_there_at_the_end(tmp_path: Path) -> None:
    prune(tmp_path / "run", *ALONE, "export=program")
    assert_computes_the_same(tmp_path / "run/models" / NAME, "model.pt2")
