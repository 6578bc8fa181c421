"""``gfs prune`` of a deep network from the outside: what lies in the run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gfs_dist
from gfs_dist import data, networks
from gfs_dist.cli import main
from gfs_dist.data import DataSpec
from gfs_dist.files import checkpoint
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.widths import feasible
from gfs_dist.pruning.widths.costs import measure_costs
from gfs_dist.workflows.measures import Split, classify_splits
from tests.jobs.deep_runs import (
    ALONE,
    OWN,
    RUN,
    dense_network,
    joined_hash,
    paths,
    prune,
    report,
)

SHARED = Path(__file__).parents[4] / "shared" / "data"


def test_the_report_has_the_promised_keys(undisturbed: Path) -> None:
    found = report(undisturbed)
    assert (found["format"], found["job"], found["status"]) == (1, "prune", "finished")
    assert {"total_s", "setup_s", "steps_s", "exchange_s", "ranks"} <= set(found["timing"])
    assert found["faults"] == []
    assert found["machine"]
    assert found["versions"]
    [row] = found["results"]
    promised = {
        "name", "iteration", "objective", "kept", "loss", "accuracy", "macs", "params",
        "accuracy_after", "path", "model", "picks_sha256", "layers", "dense", "file_bytes",
        "latency",
    }  # fmt: skip
    assert promised <= set(row)
    assert (row["name"], row["iteration"]) == ("step_00000025", 25)
    assert set(row["accuracy_after"]) == {"cut", "refit"}
    assert row["accuracy_after"]["refit"] == row["accuracy"]
    assert found["dense"] == row["dense"]
    measured = {"loss", "accuracy", "accuracy_train", "loss_test", "macs", "params", "file_bytes"}
    assert measured <= set(row["dense"])
    assert row["dense"]["file_bytes"] > row["file_bytes"]
    for speeds in (row["latency"], row["dense"]["latency"]):
        assert [speed["batch"] for speed in speeds] == [1, 64]
        assert all(speed["median_s"] > 0 for speed in speeds)
    [notes] = found["notes"]
    assert "squared difference" in notes


def test_every_layer_has_a_row_in_forward_order(undisturbed: Path) -> None:
    [row] = report(undisturbed)["results"]
    assert [set(layer) for layer in row["layers"]] == 3 * [
        {"name", "channels", "kept", "error", "macs", "reason", "reselected", "kind"}
    ]
    assert [layer["reselected"] for layer in row["layers"]][2] is None
    assert all(layer["reselected"] <= layer["kept"] for layer in row["layers"][:2])
    assert [(layer["name"], layer["channels"]) for layer in row["layers"]] == [
        ("0", 8),
        ("3", 6),
        ("6", 10),
    ]
    *pruned, last = row["layers"]
    assert (last["kept"], last["error"], last["reason"]) == (10, None, "network output")
    assert row["kept"] == sum(layer["kept"] for layer in pruned) < 14
    assert sum(layer["macs"] for layer in row["layers"]) == row["macs"]


def test_the_path_of_each_layer_is_a_file(undisturbed: Path) -> None:
    [row] = report(undisturbed)["results"]
    assert row["path"] == "paths/step_00000025"
    for layer, path in paths(undisturbed, row).items():
        channels = path["neurons"]
        assert (path["format"], path["layer"], path["samples"]) == (1, layer, 60)
        assert (path["objective"], path["weights"]) == ("least_squares", "uniform")
        assert sorted(path["picks"]) == [*range(channels)]
        assert len(path["loss"]) == len(path["step_sizes"]) == len(path["gap"]) == channels
        assert path["loss"] == sorted(path["loss"], reverse=True)
        assert (path["coefficients"], path["dense_loss"]) == (None, 0.0)
        [told] = [line for line in row["layers"] if line["name"] == layer]
        assert told["error"] == path["loss"][told["kept"] - 1] / path["unit"]
    assert row["picks_sha256"] == joined_hash(paths(undisturbed, row))


def test_the_run_folder_is_complete_and_nothing_else(undisturbed: Path) -> None:
    found = {item.name for item in undisturbed.iterdir() if not item.name.startswith(".")}
    assert found == {
        "config.yaml", "report.json", "report.md", "report.html", "paths", "sizing", "models",
        "plots", "logs", "events.jsonl",
    }  # fmt: skip
    model = {item.name for item in (undisturbed / "models/step_00000025").iterdir()}
    assert model == {"architecture.json", "model.safetensors", "README.md"}
    assert len(list((undisturbed / "paths/step_00000025").iterdir())) == 2
    rows = [json.loads(line) for line in (undisturbed / "events.jsonl").read_text().splitlines()]
    assert all({"time", "event", "generation", "rank", "pid", "host", "step"} <= {*r} for r in rows)
    assert [row["layer"] for row in rows if row["event"] == "finished"] == ["0", "3"]
    assert rows[0]["layer"] == "0"
    page = (undisturbed / "report.md").read_text()
    assert "layer that stays whole" in page
    assert "network output" in page


def test_the_stored_network_is_the_pruned_one(undisturbed: Path) -> None:
    [row] = report(undisturbed)["results"]
    network = gfs_dist.load(undisturbed / row["model"])
    images = data.load_images(DataSpec(samples=200))
    found = networks.classify(network, [(images.inputs(images.x_test), images.labels_test)])
    assert found.accuracy == row["accuracy"]
    assert found.loss == pytest.approx(row["loss_test"], rel=1e-5)
    rows = data.calibration_rows(images.labels_train, 60, 0)
    seen = images.inputs(images.x_train[rows]), images.labels_train[rows]
    assert networks.classify(network, [seen]).accuracy == row["accuracy_train"]
    assert networks.count_params(network) == row["params"]
    assert networks.count_macs(network, images.inputs(images.x_test[:1])) == row["macs"]
    assert network.get_submodule("0").weight.shape[0] == row["layers"][0]["kept"]


def test_no_layer_could_be_one_channel_wider(undisturbed: Path) -> None:
    network, example = dense_network(), torch.zeros(2, 1, 8, 8)
    costs = measure_costs(network, example, find_structure(network, example))
    [row] = report(undisturbed)["results"]
    widths = {layer["name"]: layer["kept"] for layer in row["layers"] if not layer["reason"]}
    limit = row["dense"]["macs"] / 2
    assert costs.of("macs", widths) == row["macs"] <= limit
    for name, width in widths.items():
        assert (
            width == costs.channels[name] or costs.of("macs", {**widths, name: width + 1}) > limit
        )


def test_the_test_split_is_limited_and_seen_once_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The dense network, the cut one before its repair, the result."""
    seen: list[int] = []

    def counting(network: Any, images: Any, given: dict[str, Split], on_batch: Any) -> Any:
        if "test" in given:  # a first batch of what is pruned on is checked, too
            seen.append(sum(len(split.rows) for split in given.values()))
        return classify_splits(network, images, given, on_batch)

    monkeypatch.setattr("gfs_dist.workflows.measures.classify_splits", counting)
    [row] = prune(tmp_path / "run", *ALONE, "data.test_samples=50")["results"]
    assert seen == [50, 50, 50]
    assert all(round(50 * row["accuracy_after"][k], 9) % 1 == 0 for k in ("cut", "refit"))
    said = capsys.readouterr().out
    assert "60 calibration images of 1 x 8 x 8, 50 to test on" in said
    assert "data.test_samples=50" in said.partition("next: gfs evaluate")[2]
    told = [line for line in said.splitlines() if line.startswith("time      about")]
    assert "not measured yet" not in told[-1]
    for part in ("measure", "prune", "size", "repair"):
        assert part in told[-1]


def test_the_card_says_where_the_network_comes_from(undisturbed: Path) -> None:
    card = (undisturbed / "models/step_00000025/README.md").read_text()
    assert card.startswith("# tiny_digits:make, pruned: step_00000025")
    for words in ("digits, 60 calibration images", "50% of the multiply-adds", "(N, 1, 8, 8)"):
        assert words in card


def test_all_checkpoints_of_a_run_folder_are_pruned(tmp_path: Path) -> None:
    found = prune(tmp_path / "run", "checkpoint=dense", *OWN, *RUN, "runtime=none")
    assert [row["iteration"] for row in found["results"]] == [0, 10, 20, 25]
    assert found["dense"] == found["results"][-1]["dense"]
    assert len({row["picks_sha256"] for row in found["results"]}) > 1
    page = (tmp_path / "run/report.md").read_text()
    assert all(f"Layers of {row['name']}" in page for row in found["results"])


def test_a_state_dict_is_pruned_and_its_result_pruned_again(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    checkpoint.write_tensors(file, dense_network().state_dict())
    words = [*RUN, "runtime=none", "repair.refit=false"]
    [row] = prune(tmp_path / "one", f"checkpoint={file}", *OWN, *words)["results"]
    assert set(row["accuracy_after"]) == {"cut", "batch_norm"}
    again = [f"checkpoint={tmp_path / 'one' / row['model']}", "budget.keep=50%", *words]
    [twice] = prune(tmp_path / "two", *again)["results"]
    assert twice["dense"]["macs"] == row["macs"]
    assert twice["dense"]["accuracy"] == row["accuracy"]
    assert twice["macs"] < row["macs"]


@pytest.mark.parametrize(
    "words",
    [
        ["objective=layer_output", "weights=line_search"],
        ["objective=layer_output", "replacement=true"],
        ["objective=fisher"],
        ["objective=network_loss", "budget.keep=50%"],
    ],
)
def test_every_objective_cuts_a_network_that_works(tmp_path: Path, words: list[str]) -> None:
    found = prune(tmp_path / "run", *ALONE, *words)
    [row] = found["results"]
    assert row["accuracy"] > 0.3
    for path in paths(tmp_path / "run", row).values():
        assert sum(path["coefficients"]) == pytest.approx(1.0)
    assert row["picks_sha256"] == joined_hash(paths(tmp_path / "run", row))


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["budget.params=30%", "budget.round_to=2"], "measured"),
        (["budget.latency=50%", "budget.batch=4"], "latency"),
        (["budget.memory=60%", "budget.batch=4"], "memory"),
        (["budget.macs=99%", "budget.latency=50%", "budget.batch=4"], "latency"),
        (["budget.tolerance=5%"], "tolerance"),
        (["budget.keep=50%"], "keep"),
    ],
)
def test_every_budget_is_met(
    tmp_path: Path, words: list[str], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(pruner: Pruner, widths: dict[str, int], batch: int) -> float:
        """The time of a machine that does nothing but multiply."""
        assert batch == 4
        return pruner.costs.of("macs", widths) * 1e-9

    monkeypatch.setitem(feasible.MEASURES, "latency", seconds)
    [row] = prune(tmp_path / "run", *ALONE, *words)["results"]
    assert row["sizing"]["rule"] == rule
    kept = {layer["name"]: layer["kept"] for layer in row["layers"] if not layer["reason"]}
    if rule == "measured":
        assert row["params"] <= 0.3 * row["dense"]["params"]
        assert all(width % 2 == 0 for width in kept.values())
    if rule == "latency":
        assert row["macs"] <= 0.5 * row["dense"]["macs"]
    if rule in ("latency", "memory"):
        assert row["binds"] == rule
        assert 0.5 < row["sizing"]["used"][rule] <= 1
    if rule == "keep":
        assert kept == {"0": 4, "3": 3}


def test_a_dry_run_tells_the_plan_and_writes_nothing(capsys: Any) -> None:
    assert main(["prune", *ALONE, "out=never", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    for words in (
        "60 calibration images of 1 x 8 x 8, 360 to test on",
        "1,496 parameters, 12,480 multiply-adds",
        "2 layers, 14 channels: 0 8, 3 6",
        "skip      6 10: network output",
        "at most 6,240 of 12,480; feasible, the least possible is 880",
        "MiB each",
    ):
        assert words in plan
    assert not Path("never").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
def test_a_trained_resnet20_keeps_most_of_its_accuracy_at_half_its_size(tmp_path: Path) -> None:
    words = [
        f"checkpoint={SHARED / 'weights/resnet20.safetensors'}", "model=resnet20_cifar",
        "data=cifar10", f"data.root={SHARED / 'cifar10'}", "calibration.samples=512",
        "runtime=local", "workers=2", "budget.macs=50.5%", "budget.trials=20",
    ]  # fmt: skip
    [row] = prune(tmp_path / "run", *words)["results"]
    assert row["dense"]["macs"] == 40_551_040
    assert round(row["dense"]["accuracy"], 4) == 0.9173
    assert 0.49 < row["macs"] / row["dense"]["macs"] <= 0.505
    assert row["accuracy"] > 0.85
    assert row["accuracy_after"]["cut"] < 0.5
    assert main(["cut", str(tmp_path / "run"), "budget.macs=35.7%", "name=smaller"]) == 0
    smaller = report(tmp_path / "run")["results"][1]
    assert smaller["macs"] / smaller["dense"]["macs"] <= 0.357
    assert smaller["accuracy"] > 0.65
