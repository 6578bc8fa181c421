from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.config.compose import compose
from gfs_dist.errors import CheckpointError, RunFolderError
from gfs_dist.jobs import report as job
from gfs_dist.workflows.reporter import Reporter

PATH = {
    "format": 1, "neurons": 3, "samples": 2, "objective": "squared", "weights": "uniform",
    "picks": [0, 2], "loss": [0.5, 0.25], "coefficients": [0.5, 0.0, 0.5],
    "step_sizes": [1.0, 0.5], "gap": [0.1, None], "dense_loss": 0.2,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result = {
        "name": "a", "iteration": 0, "objective": "squared", "kept": 2, "loss": 0.25,
        "accuracy": 0.9, "path": "paths/a.json", "dense": {"loss": 0.2, "accuracy": 0.95},
    }  # fmt: skip
    report = {"format": 1, "job": "prune", "status": "finished", "results": [result]}
    (tmp_path / "paths").mkdir()
    (tmp_path / "paths" / "a.json").write_text(json.dumps(PATH), encoding="utf-8")
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return tmp_path


def run(folder: Path) -> dict[str, Any]:
    return job.run(compose("report", [f"path={folder}"]), Reporter())


def test_pages_and_plots_are_written_from_the_facts(folder: Path) -> None:
    run(folder)
    assert "0.25" in (folder / "report.md").read_text(encoding="utf-8")
    assert list((folder / "plots").glob("*.png"))


def test_paths_of_a_deep_network_are_read_by_layer(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    layer = {"name": "body.0", "channels": 3, "kept": 2, "error": 0.25, "macs": 9, "reason": None}
    report["results"][0] |= {"path": "paths/a", "layers": [layer]}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (folder / "paths" / "a").mkdir()
    (folder / "paths" / "a.json").rename(folder / "paths" / "a" / "body.0.json")
    run(folder)
    assert "| body.0 | 3 | 2 (66.7 %) | 0.25 |" in (folder / "report.md").read_text("utf-8")
    assert (folder / "plots" / "error_against_width.png").is_file()


def test_page_is_shown_on_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(job.webbrowser, "open", lambda address: bool(shown.append(address)))
    job.run(compose("report", [f"path={folder}", "open=true"]), Reporter())
    assert shown == [(folder / "report.html").as_uri()]


def test_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="accepted a run folder with report.json"):
        run(tmp_path)


def test_damaged_path_is_refused_by_name(folder: Path) -> None:
    (folder / "paths" / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="paths/a.json: cannot be read"):
        run(folder)


def test_path_outside_the_run_folder_is_not_read(folder: Path) -> None:
    text = (folder / "report.json").read_text(encoding="utf-8")
    (folder / "report.json").write_text(text.replace("paths/a.json", "../a.json"), "utf-8")
    with pytest.raises(RunFolderError, match="leads out of the run folder"):
        run(folder)
