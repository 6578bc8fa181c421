"""``gfs prune`` of a deep network: the same network for any number of workers, killed or not."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.cli import main
from tests.jobs.deep_runs import (
    ALONE,
    FACTORY,
    FIRST_SEARCH,
    LAST,
    SECOND_SEARCH,
    command,
    elsewhere,
    outcome,
    prune,
    report,
)


@pytest.mark.parametrize(
    "words", [["workers=2"], pytest.param(["workers=3"], marks=pytest.mark.slow)]
)
def test_any_number_of_workers_gives_the_same_network(
    undisturbed: Path, tmp_path: Path, words: list[str]
) -> None:
    found = prune(tmp_path / "run", *LAST, "runtime=local", *words)
    assert outcome(tmp_path / "run") == outcome(undisturbed)
    assert len(found["timing"]["ranks"]) == int(words[0].removeprefix("workers="))


def test_ray_actors_give_the_same_network(
    undisturbed: Path, tmp_path: Path, embedded_ray: None
) -> None:
    prune(tmp_path / "run", *LAST, "runtime=ray", "workers=2")
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_killed_workers_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    faults = [
        {"rank": 1, "step": 3, "generation": FIRST_SEARCH},
        {"rank": 0, "step": 5, "generation": FIRST_SEARCH + 1},
    ]
    out = tmp_path / "run"
    done = elsewhere("prune", f"out={out}", *LAST, "runtime=local", "workers=2", faults=faults)
    assert done.returncode == 0, done.stderr
    assert outcome(out) == outcome(undisturbed)
    told = [(row["rank"], row["kind"]) for row in report(out)["faults"]]
    assert told == [(1, "killed"), (0, "killed")]
    assert "rank 0 was killed at step 4: replacing it" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["runtime=none"],
        # A resume by several ranks is also that of a run at a URL.
        pytest.param(["runtime=local", "workers=2"], marks=pytest.mark.slow),
    ],
)
def test_a_killed_driver_is_resumed_inside_a_layer(
    undisturbed: Path, tmp_path: Path, words: list[str]
) -> None:
    out = tmp_path / "run"
    second = [{"rank": -1, "step": 2, "generation": SECOND_SEARCH}]
    killed = elsewhere("prune", f"out={out}", *LAST, "runtime=none", faults=second)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "report.json").exists()
    assert (out / "scratch").exists()
    first, partial = (out / f"paths/step_00000025/{name}.json" for name in ("0", "3.partial"))
    before = first.stat().st_mtime_ns
    assert 1 <= len(json.loads(partial.read_text())["picks"]) < 6
    assert main(["prune", f"resume={out}", FACTORY, *words]) == 0
    assert first.stat().st_mtime_ns == before
    assert outcome(out) == outcome(undisturbed)
    assert not partial.exists()
    assert not (out / "scratch").exists()


def test_at_a_url_it_is_resumed_too_and_scratch_stays_here(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    out, url = tmp_path / "run", f"file://{tmp_path}/run"
    words = [*LAST, "runtime=local", "workers=2"]
    # The first generation is that of the ranks saying that they see the copy.
    second = [{"rank": -1, "step": 2, "generation": SECOND_SEARCH + 1}]
    killed = elsewhere("prune", f"out={url}", *words, faults=second)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out / "config.yaml").exists()
    assert list((tmp_path / "state").glob("gfs/runs/*/scratch"))
    assert not (out / "scratch").exists()
    assert main(["prune", f"resume={url}", FACTORY]) == 0
    assert outcome(out) == outcome(undisturbed)
    assert not (out / "scratch").exists()


def test_a_driver_killed_while_widths_are_measured_searches_nothing_again(
    undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    sizing = [{"rank": -1, "step": 2, "generation": SECOND_SEARCH + 1}]
    killed = elsewhere("prune", f"out={out}", *ALONE, faults=sizing)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    files = sorted((out / "paths/step_00000025").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    assert [file.name for file in files] == ["0.json", "3.json"]
    assert main(["prune", f"resume={out}", FACTORY]) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    assert outcome(out) == outcome(undisturbed)


def test_a_finished_run_is_resumed_to_the_same_report(undisturbed: Path) -> None:
    before = report(undisturbed)
    assert main(["prune", f"resume={undisturbed}", FACTORY]) == 0
    assert report(undisturbed)["results"] == before["results"]


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        command("prune", f"out={out}", *ALONE, "calibration.samples=180"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("prune step"):
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert f"gfs prune resume={out} {FACTORY}" in errors
    assert report(out)["status"] == "stopped"
    assert not (out / "scratch").exists()
    assert main(["prune", f"resume={out}", FACTORY]) == 0
    assert report(out)["status"] == "finished"


def test_fine_tuning_goes_on_to_the_same_bits(tmp_path: Path, undisturbed: Path) -> None:
    words = ["repair.finetune=true", "train.iterations=12", "train.checkpoint_every=5"]
    words += [*ALONE, "train.batch=32", "threads=1"]  # training has its bits from them
    [row] = prune(tmp_path / "whole", *words)["results"]
    assert set(row["accuracy_after"]) == {"cut", "refit", "finetune"}
    assert row["accuracy"] == row["accuracy_after"]["finetune"]
    [cut] = report(undisturbed)["results"]
    assert row["accuracy_after"]["refit"] == cut["accuracy"]
    assert row["loss"] < cut["loss"]
    assert row["layers"] == cut["layers"]
    last = max(event["generation"] for event in events(tmp_path / "whole"))
    out = tmp_path / "killed"
    killed = elsewhere(
        "prune", f"out={out}", *words, faults=[{"rank": -1, "step": 7, "generation": last}]
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert report(out)["status"] == "stopped"
    assert main(["prune", f"resume={out}", FACTORY]) == 0
    assert outcome(out) == outcome(tmp_path / "whole")


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
