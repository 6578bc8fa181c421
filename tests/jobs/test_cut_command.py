"""``gfs cut`` from the outside: another size from stored paths, and what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import gfs_dist
from gfs_dist import networks
from gfs_dist.cli import main
from gfs_dist.files import checkpoint
from tests.jobs.deep_runs import (
    ALONE,
    FACTORY,
    LAST,
    OWN,
    RUN,
    SECOND_SEARCH,
    elsewhere,
    forget_checksums,
    joined_hash,
    paths,
    prune,
    report,
    tensors,
)

SMALLER = "step_00000025_macs_0.35"


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be cut."""
    shutil.copytree(undisturbed, tmp_path / "run")
    return tmp_path / "run"


def cut(run: Path | str, *words: str) -> int:
    return main(["cut", str(run), FACTORY.removeprefix("model."), *words])


def result(run: Path, name: str) -> dict[str, Any]:
    [row] = [row for row in report(run)["results"] if row["name"] == name]
    return dict(row)


def widths(row: dict[str, Any]) -> dict[str, int]:
    return {layer["name"]: layer["kept"] for layer in row["layers"]}


def test_another_size_joins_the_first(run: Path) -> None:
    before = report(run)
    assert cut(run, "budget.macs=35%") == 0
    after = report(run)
    assert (after["job"], after["status"]) == ("prune", "finished")
    assert after["timing"] == before["timing"]
    assert [row["name"] for row in after["results"]] == ["step_00000025", SMALLER]
    assert after["results"][0] == before["results"][0]
    row = after["results"][1]
    assert row["macs"] <= 0.35 * row["dense"]["macs"]
    assert (row["path"], row["budget"]) == ("paths/step_00000025", "35% of the multiply-adds")
    assert (
        row["picks_sha256"] == joined_hash(paths(run, row)) == before["results"][0]["picks_sha256"]
    )
    assert set(row["accuracy_after"]) == {"cut", "refit"}
    assert row["accuracy_after"]["cut"] is None  # measured where there is more time
    first, sizing = before["results"][0]["sizing"], row["sizing"]
    assert set(first["weights"]) == set(widths(row)) - {"6"}
    assert sizing["weights"] == first["weights"]
    rules = ["curves", "same share", "weighted curves"]
    assert [found["rule"] for found in sizing["compared"]] == rules
    network = gfs_dist.load(run / row["model"])
    assert networks.count_params(network) == row["params"]
    assert (run / row["model"] / "README.md").read_text().count("35% of the multiply-adds") == 1
    page = (run / "report.md").read_text()
    assert all(f"Layers of {name}" in page for name in ("step_00000025", SMALLER))
    assert not (run / "scratch").exists()


def test_it_is_the_network_that_pruning_to_that_size_gives(run: Path, tmp_path: Path) -> None:
    words = ["budget.macs=35%", "budget.trials=20"]
    assert cut(run, *words, "name=smaller") == 0
    [straight] = prune(tmp_path / "straight", *ALONE, *words)["results"]
    later = result(run, "smaller")
    assert widths(later) == widths(straight)
    assert later["accuracy"] == straight["accuracy"]
    expected, found = tensors(tmp_path / "straight", straight), tensors(run, later)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_widths_and_rounding_are_taken_as_in_prune(run: Path, tmp_path: Path) -> None:
    (tmp_path / "widths.json").write_text('{"0": 2, "3": 5}')
    assert cut(run, f"budget.widths={tmp_path / 'widths.json'}") == 0
    assert widths(result(run, "step_00000025_widths")) == {"0": 2, "3": 5, "6": 10}
    assert cut(run, "budget.keep=0.5", "budget.round_to=4") == 0
    row = result(run, "step_00000025_keep_0.5_round_to_4")
    assert widths(row) == {"0": 4, "3": 4, "6": 10}


def test_several_limits_all_hold_and_the_one_that_binds_is_told(run: Path, capsys: Any) -> None:
    assert cut(run, "budget.macs=80%", "budget.params=40%") == 0
    row = result(run, "step_00000025_macs_0.8_params_0.4")
    dense = row["dense"]
    assert row["params"] <= 0.4 * dense["params"]
    assert row["macs"] <= 0.8 * dense["macs"]
    assert row["budget"] == "80% of the multiply-adds and 40% of the parameters"
    used = row["sizing"]["used"]
    assert row["binds"] == row["sizing"]["binds"] == "params" == max(used, key=used.__getitem__)
    assert used == {
        kind: row[kind] / int(share * dense[kind])
        for kind, share in (("macs", 0.8), ("params", 0.4))
    }
    shown = capsys.readouterr().out.splitlines()
    [header] = [line for line in shown if " multiply-adds " in line and "binds" in line]
    [cells] = [line for line in shown if "macs_0.8_params_0.4  " in line]
    assert cells.split()[header.split().index("binds")] == "params"
    assert "; params binds (of the limits macs " in (run / "report.md").read_text()


def test_uniform_widths_are_told(run: Path, capsys: Any) -> None:
    assert cut(run, "budget.macs=50%", "budget.uniform=true") == 0
    row = result(run, "step_00000025_macs_0.5_uniform")
    assert row["budget"] == "50% of the multiply-adds, uniform"
    told = "same width in all layers of a kind"
    assert f"{told} (2 for 2 layers)" in row["sizing"]["reason"]
    assert f"{told}: 1 times channels of 8, 1 times channels of 6" in capsys.readouterr().out
    assert row["sizing"]["binds"] == "macs"


def test_a_resumed_run_keeps_what_was_cut(run: Path) -> None:
    assert cut(run, "budget.macs=35%") == 0
    before = report(run)["results"]
    assert main(["prune", f"resume={run}", FACTORY]) == 0
    assert report(run)["results"] == before


def test_the_last_of_several_checkpoints_is_cut(tmp_path: Path) -> None:
    prune(tmp_path / "run", "checkpoint=dense", *OWN, *RUN, "runtime=none")
    assert cut(tmp_path / "run", "budget.params=60%", "name=cut") == 0
    assert result(tmp_path / "run", "cut")["iteration"] == 25


def test_a_dry_run_tells_the_plan_and_writes_nothing(run: Path, capsys: Any) -> None:
    before = report(run)
    capsys.readouterr()
    assert cut(run, "budget.macs=35%", "--dry-run") == 0
    told = capsys.readouterr().out
    assert f"step_00000025 once more, as {SMALLER}" in told
    assert "at most 4,368 of 12,480; feasible" in told
    assert report(run) == before
    assert not (run / "models" / SMALLER).exists()


def test_a_budget_that_cannot_be_met_is_refused_before_anything_is_written(
    run: Path, capsys: Any
) -> None:
    before = report(run)
    for words, code, message in (
        (["budget.macs=1%"], 3, "budget.macs: found 1%"),
        (["budget.macs=2"], 2, "budget.macs: found 2, accepted a share"),
        ([], 2, "budget: found none, accepted one or more of macs"),
        (["budget.macs=35%", "name=step_00000025"], 2, "has a result step_00000025, accepted"),
        (["budget.macs=35%", "name=a/b"], 2, "name: found 'a/b', accepted"),
        (["budget.macs=35%", "name='a b'"], 2, "name: found 'a b', accepted letters"),
        (["budget.macs=35%", f"name={'a' * 300}"], 2, "at most 200"),
    ):
        assert cut(run, *words) == code
        assert message in capsys.readouterr().err
    assert report(run) == before


def test_what_is_no_run_of_a_deep_network_is_refused(tmp_path: Path, capsys: Any) -> None:
    two = ["data.samples=50", "model.width=5", "train.iterations=0", "steps=3", "runtime=none"]
    assert main(["prune", f"out={tmp_path / 'two'}", *two]) == 0
    for path, message in (
        (tmp_path / "two", "has pruned a two-layer network"),
        (tmp_path / "nothing", "accepted a run folder (with config.yaml)"),
        (Path("dense"), "is not a configuration of gfs prune"),
    ):
        assert main(["cut", str(path), "budget.macs=35%"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("gfs: path: ")
        assert message in error
    assert cut(tmp_path / "two", "budget.macs=35%") == 2
    assert "accepted with a run of model=custom" in capsys.readouterr().err


def test_a_run_that_is_not_searched_to_its_end_is_refused(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    second = [{"rank": -1, "step": 2, "generation": SECOND_SEARCH}]
    killed = elsewhere("prune", f"out={out}", *LAST, "runtime=none", faults=second)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert cut(out, "budget.macs=35%") == 2
    error = capsys.readouterr().err
    assert "has the paths of 1 of 2 layers; finish it with gfs prune resume=" in error
    assert FACTORY in error


def test_weights_that_changed_are_refused(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "net.safetensors"
    state = checkpoint.read_tensors(Path("dense/checkpoints/step_00000025") / checkpoint.MODEL)
    checkpoint.write_tensors(file, state)
    prune(tmp_path / "run", f"checkpoint={file}", *OWN, *RUN, "runtime=none")
    state["6.bias"] += 1
    checkpoint.write_tensors(file, state)
    assert cut(tmp_path / "run", "budget.macs=35%") == 2
    assert "path: the checkpoint changed since" in capsys.readouterr().err
    assert not (tmp_path / "run/models" / SMALLER).exists()


def test_data_that_changed_is_refused(run: Path, capsys: Any) -> None:
    forget_checksums(run)
    for file in (run / "paths/step_00000025").iterdir():
        content = json.loads(file.read_text())
        content["inputs"]["data=digits"] = "another"
        file.write_text(json.dumps(content))
    assert cut(run, "budget.macs=35%") == 2
    assert "path: data=digits changed since" in capsys.readouterr().err
