"""``gfs prune`` of a deep network from the outside: what lies in the run folder, killed or not."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import gfs_dist
from gfs_dist import data, networks
from gfs_dist.cli import main
from gfs_dist.data import DataSpec
from gfs_dist.files import checkpoint
from gfs_dist.networks import TwoLayer
from gfs_dist.pruning.budget import Budget
from gfs_dist.pruning.costs import measure_costs
from gfs_dist.pruning.discover import find_structure
from gfs_dist.pruning.layerwise import sizing
from gfs_dist.pruning.layerwise.pruner import Pruner
from tests.jobs.deep_runs import (
    ALONE,
    LAST,
    RUN,
    command,
    elsewhere,
    joined_hash,
    make_home,
    outcome,
    paths,
    prune,
    report,
    tensors,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"

FIRST_SEARCH = 1
"""Generation of the first layer's search: the pass over its consumer's inputs is the one before."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    make_home(folder)
    return folder


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def undisturbed(home: Path) -> Path:
    """A finished run in this process, to compare others with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        prune("undisturbed", *ALONE)
    return home / "undisturbed"


def dense_network() -> torch.nn.Module:
    return networks.load_tensors(
        {"model": "custom", "factory": "tiny_digits:make", "kwargs": {}},
        checkpoint.load("dense/checkpoints/step_00000025").tensors,
        "here",
    )


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
    assert {"loss", "accuracy", "macs", "params", "file_bytes"} <= set(row["dense"])
    assert row["dense"]["file_bytes"] > row["file_bytes"]
    for speeds in (row["latency"], row["dense"]["latency"]):
        assert [speed["batch"] for speed in speeds] == [1, 64]
        assert all(speed["median_s"] > 0 for speed in speeds)
    [notes] = found["notes"]
    assert "divergence" in notes


def test_every_layer_has_a_row_in_forward_order(undisturbed: Path) -> None:
    [row] = report(undisturbed)["results"]
    assert [set(layer) for layer in row["layers"]] == 3 * [
        {"name", "channels", "kept", "error", "macs", "reason"}
    ]
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
        "config.yaml", "report.json", "report.md", "report.html", "paths", "models", "plots",
        "logs", "events.jsonl",
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
    assert networks.count_params(network) == row["params"]
    assert networks.count_macs(network, images.inputs(images.x_test[:1])) == row["macs"]
    assert network.get_submodule("0").weight.shape[0] == row["layers"][0]["kept"]


def test_no_layer_could_be_one_channel_wider(undisturbed: Path) -> None:
    network, example = dense_network(), torch.zeros(2, 1, 8, 8)
    costs = measure_costs(network, example, find_structure(network, example))
    [row] = report(undisturbed)["results"]
    widths = {layer["name"]: layer["kept"] for layer in row["layers"] if not layer["reason"]}
    limit = row["dense"]["macs"] / 2
    assert costs.macs(widths) == row["macs"] <= limit
    for name, width in widths.items():
        assert width == costs.channels[name] or costs.macs({**widths, name: width + 1}) > limit


def test_the_card_says_where_the_network_comes_from(undisturbed: Path) -> None:
    card = (undisturbed / "models/step_00000025/README.md").read_text()
    assert card.startswith("# tiny_digits:make, pruned: step_00000025")
    for words in ("digits, 60 calibration images", "50% of the multiply-adds", "(N, 1, 8, 8)"):
        assert words in card


@pytest.mark.parametrize("words", [["workers=2"], ["workers=3"]])
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


@pytest.mark.parametrize("words", [["runtime=none"], ["runtime=local", "workers=2"]])
def test_a_killed_driver_is_resumed_inside_a_layer(
    undisturbed: Path, tmp_path: Path, words: list[str]
) -> None:
    out = tmp_path / "run"
    second = [{"rank": -1, "step": 2, "generation": FIRST_SEARCH + 2}]
    killed = elsewhere("prune", f"out={out}", *LAST, "runtime=none", faults=second)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "report.json").exists()
    assert (out / "scratch").exists()
    first, partial = (out / f"paths/step_00000025/{name}.json" for name in ("0", "3.partial"))
    before = first.stat().st_mtime_ns
    assert 1 <= len(json.loads(partial.read_text())["picks"]) < 6
    assert main(["prune", f"resume={out}", *words]) == 0
    assert first.stat().st_mtime_ns == before
    assert outcome(out) == outcome(undisturbed)
    assert not partial.exists()
    assert not (out / "scratch").exists()


def test_a_driver_killed_while_widths_are_measured_searches_nothing_again(
    undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    sizing = [{"rank": -1, "step": 2, "generation": FIRST_SEARCH + 3}]
    killed = elsewhere("prune", f"out={out}", *ALONE, faults=sizing)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    files = sorted((out / "paths/step_00000025").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    assert [file.name for file in files] == ["0.json", "3.json"]
    assert main(["prune", f"resume={out}"]) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    assert outcome(out) == outcome(undisturbed)


def test_a_finished_run_is_resumed_to_the_same_report(undisturbed: Path) -> None:
    before = report(undisturbed)
    assert main(["prune", f"resume={undisturbed}"]) == 0
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
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"gfs prune resume={out}" in errors
    assert report(out)["status"] == "stopped"
    assert not (out / "scratch").exists()
    assert main(["prune", f"resume={out}"]) == 0
    assert report(out)["status"] == "finished"


def test_a_checkpoint_that_changed_is_refused_on_resume(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "net.pt"
    torch.save(dense_network().state_dict(), file)
    words = ["model=custom", "model.factory=tiny_digits:make", *RUN, "runtime=none"]
    prune(tmp_path / "run", f"checkpoint={file}", *words)
    state = torch.load(file)
    state["6.bias"] += 1
    torch.save(state, file)
    assert main(["prune", f"resume={tmp_path / 'run'}"]) == 2
    assert "resume: the checkpoint changed since" in capsys.readouterr().err


def test_a_damaged_path_is_refused_on_resume(tmp_path: Path, capsys: Any) -> None:
    prune(tmp_path / "run", *ALONE)
    file = tmp_path / "run/paths/step_00000025/3.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "picks": [7, *content["picks"][1:]]}))
    assert main(["prune", f"resume={tmp_path / 'run'}"]) == 2
    assert "3.json holds no path: pick 7" in capsys.readouterr().err


def test_all_checkpoints_of_a_run_folder_are_pruned(tmp_path: Path) -> None:
    found = prune(tmp_path / "run", "checkpoint=dense", *RUN, "runtime=none")
    assert [row["iteration"] for row in found["results"]] == [0, 10, 20, 25]
    assert found["dense"] == found["results"][-1]["dense"]
    assert len({row["picks_sha256"] for row in found["results"]}) > 1
    page = (tmp_path / "run/report.md").read_text()
    assert all(f"Layers of {row['name']}" in page for row in found["results"])


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
    assert main(["prune", f"resume={out}"]) == 0
    assert outcome(out) == outcome(tmp_path / "whole")


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def test_a_state_dict_is_pruned_and_its_result_pruned_again(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    checkpoint.write_tensors(file, dense_network().state_dict())
    words = [*RUN, "runtime=none", "repair.refit=false"]
    model = ["model=custom", "model.factory=tiny_digits:make"]
    [row] = prune(tmp_path / "one", f"checkpoint={file}", *model, *words)["results"]
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
        (["budget.tolerance=5%"], "tolerance"),
        (["budget.keep=50%"], "keep"),
    ],
)
def test_every_budget_is_met(
    tmp_path: Path, words: list[str], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(pruner: Pruner, widths: dict[str, int], budget: Budget) -> float:
        """What a machine would take that does nothing but multiply."""
        assert budget.batch == 4
        return pruner.costs.macs(widths) * 1e-9

    monkeypatch.setattr(sizing, "_seconds", seconds)
    [row] = prune(tmp_path / "run", *ALONE, *words)["results"]
    assert row["sizing"]["rule"] == rule
    kept = {layer["name"]: layer["kept"] for layer in row["layers"] if not layer["reason"]}
    if rule == "measured":
        assert row["params"] <= 0.3 * row["dense"]["params"]
        assert all(width % 2 == 0 for width in kept.values())
    if rule == "latency":
        assert row["macs"] <= 0.5 * row["dense"]["macs"]
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
        "at most 6,240 of 12,480; feasible, the least to be had is 880",
        "MiB each",
    ):
        assert words in plan
    assert not Path("never").exists()


def test_weights_that_are_no_numbers_are_refused(capsys: Any) -> None:
    state = dense_network().state_dict()
    for value, words in (
        (float("nan"), "tensor '3.weight' is nan"),
        (1e38, "NaN or infinity at sample 0, first after layer '3'"),
    ):
        state["3.weight"] = torch.full_like(state["3.weight"], value)
        torch.save(state, "wrong.pt")
        model = ["model=custom", "model.factory=tiny_digits:make"]
        assert main(["prune", "checkpoint=wrong.pt", *model, *RUN, "out=never"]) == 2
        assert words in capsys.readouterr().err
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["budget.macs=1%"], 3, r"budget.macs: found 1% (124 multiply-adds), but with 1 channel"),
        (["budget.macs=0"], 2, "budget.macs: found 0, accepted a share above 0"),
        (["budget.params=1.5"], 2, "budget.params: found 1.5, accepted a share above 0"),
        (["budget.widths=unknown.json"], 2, "no layer 'nope' that can be pruned; accepted 0, 3"),
        (["data=mnist", "data.root=nowhere"], 2, "nowhere"),
        (["checkpoint=nothing"], 2, "found none in nothing"),
        (["checkpoint=two", "model=resnet20_cifar"], 2, "two is a two-layer network"),
        (["model=resnet20_cifar"], 2, "model: found resnet20_cifar, but dense"),
        (
            ["model=custom", "model.factory=tiny_digits:fail"],
            2,
            "model.factory: found tiny_digits:fail, but dense/checkpoints/step_00000025 has "
            "tiny_digits:make; accepted tiny_digits:make, or no model= at all",
        ),
        (["checkpoint=net.pt", "model=stored"], 2, "model: found stored, accepted here the name"),
        (["checkpoint=net.pt", "model=resnet20_cifar"], 2, "conv1.weight"),
        (
            ["checkpoint=net.pt", "model=custom", "model.factory=tiny_digits:fail"],
            2,
            "model.factory: tiny_digits:fail raised ValueError: no weights today",
        ),
        (
            ["checkpoint=net.pt", "model=custom", "model.factory=torch.nn:Flatten"],
            2,
            "net.pt",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    words: list[str], code: int, message: str, capsys: Any
) -> None:
    Path("unknown.json").write_text('{"nope": 3}')
    torch.save(dense_network().state_dict(), "net.pt")
    if not Path("two").exists():
        networks.save("two", TwoLayer.initialise(7, 64, "relu", seed=4))
    assert main(["prune", *ALONE, "out=never", *words]) == code
    assert message in capsys.readouterr().err
    assert not Path("never").exists()


def test_images_of_another_shape_are_refused(tmp_path: Path, capsys: Any) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.random((40, 2, 8, 8), np.float32), np.arange(40) % 10
    np.savez(tmp_path / "odd.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = ["data=npz", f"data.path={tmp_path / 'odd.npz'}", "runtime=none", "out=never"]
    assert main(["prune", "checkpoint=dense", *words]) == 2
    assert "fails on an input of shape (2, 8, 8)" in capsys.readouterr().err


def test_a_network_without_anything_to_prune_is_an_error(capsys: Any) -> None:
    Path("flat.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    network = networks.make_custom("flat:make", {})
    torch.save(network.state_dict(), "flat.pt")
    words = ["checkpoint=flat.pt", "model=custom", "model.factory=flat:make", "out=never"]
    assert main(["prune", *words, *RUN]) == 2
    assert "nothing in it can be pruned ('1': network output)" in capsys.readouterr().err


def test_data_that_changed_is_refused_on_resume(tmp_path: Path, capsys: Any) -> None:
    import numpy as np

    images = data.load_images(DataSpec(samples=200))
    arrays = {
        "x_train": images.x_train, "y_train": images.labels_train,
        "x_test": images.x_test, "y_test": images.labels_test,
    }  # fmt: skip
    arrays = {name: tensor.numpy() for name, tensor in arrays.items()}
    np.savez(tmp_path / "digits.npz", **arrays)
    words = ["data=npz", f"data.path={tmp_path / 'digits.npz'}", "calibration.samples=60"]
    out = tmp_path / "run"
    [row] = prune(out, LAST[0], *words, "runtime=none")["results"]
    assert tensors(out, row)
    arrays["x_train"] = arrays["x_train"] * 0.5
    np.savez(tmp_path / "digits.npz", **arrays)
    data_again = ["prune", f"resume={out}"]
    from gfs_dist.jobs.deep import read_images

    read_images.cache_clear()  # as in a new process
    assert main(data_again) == 2
    assert "resume: data=npz changed since" in capsys.readouterr().err


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
