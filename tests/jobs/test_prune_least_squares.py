"""``gfs prune objective=least_squares`` of two-layer networks, from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import gfs_dist
from gfs_dist.cli import main
from gfs_dist.data import DataSpec
from gfs_dist.workflows.two_layer import Inputs
from tests.jobs.deep_runs import elsewhere, prune

NETWORK = ["data.samples=400", "model.width=300"]
REFIT = [*NETWORK, "objective=least_squares", "distinct=50"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    """Checkpoints of a training with squared loss."""
    out = tmp_path_factory.mktemp("dense") / "run"
    words = ["train.iterations=120", "train.checkpoint_every=60", "runtime=none"]
    assert main(["pretrain", f"out={out}", *NETWORK, *words]) == 0
    return out


@pytest.fixture(scope="module")
def refitted(dense, tmp_path_factory) -> Path:
    """All of them pruned in this process, and the picks verified."""
    out = tmp_path_factory.mktemp("refitted") / "run"
    prune(out, f"checkpoint={dense}", *REFIT, "runtime=none", "verify=true")
    return out


def test_fifty_neurons_are_better_than_by_means(dense, refitted, tmp_path) -> None:
    found = json.loads((refitted / "report.json").read_text())["results"]
    means = prune(tmp_path, f"checkpoint={dense}", *NETWORK, "distinct=50", "runtime=none")
    for row, other in zip(found, means["results"], strict=True):
        assert row["kept"] == other["kept"] == 50
        assert row["loss"] < 0.5 * other["loss"]
        assert row["accuracy_train"] > other["accuracy_train"]
        assert row["loss"] < row["dense"]["loss"]


def test_report_path_and_network_say_the_same(refitted) -> None:
    for row in json.loads((refitted / "report.json").read_text())["results"]:
        assert (row["objective"], row["verified"]) == ("least_squares", True)
        assert "refitted" in row["theory"]["reason"]
        path = json.loads((refitted / row["path"]).read_text())
        assert path["coefficients"] is None
        assert len(set(path["picks"])) == len(path["picks"]) == 50
        network = gfs_dist.load(refitted / row["model"])
        x, target = Inputs(DataSpec(samples=400), 300, "tanh", "squared")()
        with torch.no_grad():
            loss = float((network(x) - target).square().mean()) / 2
        assert loss == pytest.approx(path["loss"][-1], rel=1e-9)


def test_ranks_pick_the_same_though_one_is_killed(dense, refitted, tmp_path) -> None:
    faults = [{"rank": 1, "step": 20, "kind": "kill", "generation": 0}]
    ranks = ["runtime=local", "workers=3", "partition=strided", "graph=ring"]
    words = [f"checkpoint={dense}", *REFIT, *ranks]
    done = elsewhere("prune", f"out={tmp_path / 'run'}", *words, faults=faults)
    assert done.returncode == 0, done.stderr
    report, alone = (
        json.loads((folder / "report.json").read_text()) for folder in (tmp_path / "run", refitted)
    )
    assert len(report["faults"]) == 1
    for row, other in zip(report["results"], alone["results"], strict=True):
        assert row["picks_sha256"] == other["picks_sha256"]
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-9)


def test_a_finished_run_is_replayed_and_its_networks_made_again(dense, tmp_path) -> None:
    out = tmp_path / "run"
    first = prune(out, f"checkpoint={dense}", *REFIT, "runtime=none")
    (out / first["results"][1]["model"] / "model.safetensors").unlink()
    assert main(["prune", f"resume={out}"]) == 0
    again = json.loads((out / "report.json").read_text())
    for row, other in zip(first["results"], again["results"], strict=True):
        assert (row["picks_sha256"], row["loss"]) == (other["picks_sha256"], other["loss"])


def test_without_a_checkpoint_it_is_trained_on_the_squared_loss(tmp_path, capsys) -> None:
    words = ["train.iterations=20", "runtime=none", "precision=float32", "verify=true"]
    [row] = prune(tmp_path / "run", *REFIT, *words)["results"][-1:]
    said = capsys.readouterr().out
    assert "checkpoints, on the squared loss" in said
    assert "squared loss, output weights refitted after each pick, without replacement" in said
    assert "elimination: orthogonal least squares on the Gram matrix; memory a rank" in said
    assert f"gfs evaluate {tmp_path / 'run' / row['model']} " in said
    assert "objective=squared" in said
    assert (row["kept"], row["verified"]) == (50, True)


def test_where_neurons_are_combinations_of_others_the_search_ends_with_a_word(tmp_path) -> None:
    """Without a bend 300 neurons span no more than the 64 inputs, of which some are always 0."""
    words = ["model.activation=identity", "train.iterations=0", "runtime=none"]
    report = prune(tmp_path / "run", *REFIT[:-1], *words, "distinct=100")
    [row] = report["results"]
    assert row["stop_reason"] == "converged"
    assert 50 <= row["kept"] <= 64
    assert f"{row['kept']} distinct neurons, not 100: no further pick lowers" in report["notes"][0]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("prune objective=least_squares replacement=true", "replacement: found true, accepted fal"),
        ("prune objective=least_squares weights=line_search", "weights: found 'line_search', acce"),
        ("prune objective=least_squares method=lazy", "method: found 'lazy', accepted auto, elimi"),
        ("prune method=elimination", "method: found 'elimination', accepted auto, panel, lazy"),
        ("pretrain objective=least_squares", "objective: found 'least_squares', accepted squared,"),
        ("evaluate . objective=least_squares", "objective: found 'least_squares', accepted square"),
    ],
)
def test_what_does_not_go_with_it_is_refused(command, message, capsys) -> None:
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err
