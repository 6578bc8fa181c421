"""``gfs reproduce``: grids at their smallest, kills and resumption through the command line."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.cli import main
from gfs_dist.config.compose import compose, to_yaml

TINY = ["experiment=figure1", "seed=3"]


def reproduce(*words: str) -> int:
    return main(["reproduce", *words])


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted((folder / "cells").glob("*.json"))
    return {file.stem: json.loads(file.read_text())["found"] for file in files}


def picks(folder: Path) -> dict[str, str]:
    """The hash of the picks of each cell that prunes."""
    rows = cells(folder).items()
    return {name: row["picks_sha256"] for name, row in rows if "picks_sha256" in row}


def without_times(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {k: v for k, v in row.items() if "seconds" not in k} for name, row in found.items()
    }


@pytest.fixture(scope="module")
def figure1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke grid in one process."""
    out = tmp_path_factory.mktemp("figure1") / "run"
    assert reproduce(*TINY, "runtime=none", f"out={out}") == 0
    return out


def test_a_grid_ends_with_claims_tables_plots_and_csv(figure1: Path) -> None:
    found = report(figure1)
    assert (found["job"], found["experiment"], found["status"]) == (
        "reproduce",
        "figure1",
        "finished",
    )
    assert len(found["results"]) == 2 * 3 * 6 * len({row["rule"] for row in found["results"]})
    verdicts = {row["verdict"] for row in found["tables"]["claims of the paper"]}
    assert verdicts <= {"holds", "holds in part", "contradicted", "undecided"}
    with (figure1 / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["results"])
    assert {"accuracy_train", "accuracy", "picks_sha256", "dense_loss"} <= set(rows[0])
    plots = {plot.stem for plot in (figure1 / "plots").iterdir()}
    assert {"pretraining_heat_maps", "iterations_needed", "accuracy_by_rule"} <= plots
    page = (figure1 / "report.md").read_text()
    assert page.startswith("# gfs reproduce figure1, preset smoke\n")
    assert page.index("never found at initialisation") < page.index("## Plots")


def test_training_is_what_lets_pruning_work(figure1: Path) -> None:
    rows = [row for row in report(figure1)["results"] if row["rule"] == "uniform"]
    first = [row["accuracy_train"] for row in rows if row["iteration"] == 0]
    last = [row["accuracy_train"] for row in rows if row["iteration"] == 800]
    assert max(first) < 0.9 < 0.95 < min(last)


def test_killed_workers_change_no_cell(
    figure1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [{"rank": rank, "step": step, "kind": "kill"} for rank, step in ((0, 2), (1, 4))]
    monkeypatch.setenv("GFS_FAULTS", json.dumps(faults))
    out = tmp_path / "run"
    assert reproduce(*TINY, "runtime=local", "workers=2", f"out={out}") == 0
    assert len(report(out)["faults"]) == 2
    assert without_times(cells(out)) == without_times(cells(figure1))


def test_only_missing_cells_are_computed(figure1: Path) -> None:
    before = cells(figure1)
    removed = sorted(before)[5:9]
    for name in removed:
        (figure1 / "cells" / f"{name}.json").unlink()
    damaged = figure1 / "cells" / f"{sorted(before)[1]}.json"
    damaged.write_text(damaged.read_text().replace('"kept": ', '"kept": 1'))
    cut_off = figure1 / "cells" / f"{sorted(before)[2]}.json"
    cut_off.write_bytes(cut_off.read_bytes()[:100])
    strange = figure1 / "cells" / f"{sorted(before)[3]}.json"
    only_cell = {"format": 1, "cell": json.loads(strange.read_text())["cell"]}
    strange.write_text(json.dumps(only_cell))
    stamps = {file.stem: file.stat().st_mtime_ns for file in (figure1 / "cells").iterdir()}
    assert reproduce(*TINY, "runtime=none", f"resume={figure1}") == 0
    assert without_times(cells(figure1)) == without_times(before)
    after = {file.stem: file.stat().st_mtime_ns for file in (figure1 / "cells").iterdir()}
    again = {name for name, stamp in after.items() if stamps.get(name) != stamp}
    assert again == {*removed, damaged.stem, cut_off.stem, strange.stem}


def test_a_damaged_training_says_how_it_is_made_again(
    figure1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(figure1, out)
    training = "n50_m200_t0"
    (out / "trainings" / training / "step_00000100" / "model.safetensors").write_bytes(b"damage")
    (out / "cells" / f"{training}_i100_uniform.json").unlink()
    assert reproduce("runtime=none", f"resume={out}") == 2
    said = capsys.readouterr().err
    assert "step_00000100" in said and f"remove trainings/{training}" in said
    shutil.rmtree(out / "trainings" / training)
    (out / "cells" / f"{training}.json").unlink()
    assert reproduce("runtime=none", f"resume={out}") == 0
    assert picks(out) == picks(figure1)


@pytest.mark.parametrize(("experiment", "plot"), [
    ("figure2", "smallest_singular_value"), ("figure3", "condition_number"),
])  # fmt: skip
def test_spectra(experiment: str, plot: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert reproduce(f"experiment={experiment}", "runtime=none", f"out={out}") == 0
    assert (out / "plots" / f"{plot}.png").is_file()
    [claim] = report(out)["tables"]["claims of the paper"]
    assert claim["verdict"] in ("holds", "holds in part")


@pytest.mark.parametrize("experiment", ["figure2", "figure3"])
def test_a_folder_in_the_place_of_a_cell_is_refused(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert reproduce(f"experiment={experiment}", "runtime=none", f"out={out}") == 0
    cell = next((out / "cells").iterdir())
    cell.unlink()
    cell.mkdir()
    assert reproduce(f"resume={out}") == 2
    assert f"{cell}: found a folder, accepted the file of a cell" in capsys.readouterr().err
    assert report(out)["status"] == "failed"  # and its page, which has results but no tables
    cell.rmdir()
    assert reproduce(f"resume={out}") == 0


@pytest.mark.parametrize(("words", "said"), [
    (["experiment=figure9"], "did you mean figure"),
    (["experiment=figure1", "data=synthetic"], "accepted mnist, digits with experiment=figure1"),
    (["experiment=figure1", "data.samples=100"], "accepted with experiment=table2"),
    (["experiment=figure1", "data.prune_samples=100"], "accepted with experiment=table1, table2"),
    (["experiment=theory", "data.test_samples=9"], "data.test_samples: found 9 with experiment"),
    (["experiment=figure2", "data.validation=0.1"], "accepted with experiment=figure1, table1"),
    (["experiment=figure3", "trials=2"], "trials: found 2 with experiment=figure3"),
    (["experiment=table1", "data.seed=5", "seed=4"], "data.seed: found 5, accepted 4"),
    (["experiment=figure1", "preset=cpu"], "data.root"),
    ([], "experiment: has no default"),
])  # fmt: skip
def test_refusals(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("runtime=none", *words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("runtime", "start_s"), [("none", 3), ("local", 6), ("ray", 13)])
def test_the_plan_counts_the_start_of_ranks(
    runtime: str, start_s: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce("experiment=figure1", f"runtime={runtime}", "--dry-run") == 0
    ranks = "1 rank" if runtime == "none" else "2 ranks"
    words = f"on {ranks} of one CPU core each: start and page {start_s} s, "
    found = re.search(r"time      about (\d+) s " + words, capsys.readouterr().out)
    assert found is not None and int(found[1]) > start_s


def test_a_run_stored_with_keys_without_effect_goes_on(tmp_path: Path) -> None:
    config = compose("reproduce", ["experiment=figure2"])
    config.data.seed, config.trials = 5, 3
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert compose("reproduce", [f"resume={tmp_path}"]).trials == 3


@pytest.mark.slow
def test_blocks_are_timed_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert reproduce("experiment=figure4", "runtime=local", f"out={out}") == 0
    first = report(out)
    assert len(first["tables"]["claims of the paper"]) == 3
    assert {row["measured"] for row in first["results"]} >= {"whole", "critical path"}
    assert (out / "plots" / "blocks_network_loss.png").is_file()
    assert reproduce(f"resume={out}") == 0
    assert report(out)["results"] == first["results"]


@pytest.mark.slow
def test_ray_actors_pick_what_one_process_picks(
    figure1: Path, tmp_path: Path, embedded_ray: None
) -> None:
    out = tmp_path / "run"
    assert reproduce(*TINY, "runtime=ray", "workers=2", f"out={out}") == 0
    assert picks(out) == picks(figure1)


@pytest.mark.slow
def test_a_killed_driver_costs_the_cells_in_hand(figure1: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["reproduce", *TINY, "runtime=local", "workers=2", f"out={out}"]
    with subprocess.Popen([sys.executable, "-m", "gfs_dist", *words]) as driver:
        while len(done := list((out / "cells").glob("*.json"))) < 20 and driver.poll() is None:
            time.sleep(0.05)
        driver.kill()
    before = {file: file.stat().st_mtime_ns for file in done}
    assert 20 <= len(before) < len(cells(figure1))
    assert reproduce("experiment=figure1", "runtime=local", f"resume={out}") == 0
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in before.items())
    assert without_times(cells(out)) == without_times(cells(figure1))
