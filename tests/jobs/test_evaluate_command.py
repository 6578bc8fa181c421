"""``gfs evaluate`` and the checkpoints that jobs accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist import networks
from gfs_dist.cli import main
from gfs_dist.config.commands import TwoLayer as Keys
from gfs_dist.config.compose import compose
from gfs_dist.errors import CheckpointError
from gfs_dist.files import RunFolder, atomic, checkpoint
from gfs_dist.files.find import find_checkpoints
from gfs_dist.jobs import evaluate
from gfs_dist.networks import TwoLayer
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.stored_networks import load_network

NETWORK = TwoLayer.initialise(7, 64, "relu", seed=4)
KEYS = Keys("two_layer", 7, "relu")


def measured(path: Path, *words: str) -> dict[str, Any]:
    words = (f"path={path}", "data.samples=100", *words)
    return evaluate.run(compose("evaluate", words), Reporter())["results"][0]


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Path]:
    """One network, stored in every way."""
    tensors = NETWORK.state_dict()
    places = {name: tmp_path / name for name in ("model", "step", "w.safetensors", "w.pt")}
    networks.save(places["model"], NETWORK)
    facts = {"iteration": 30, "architecture": NETWORK.architecture}
    checkpoint.save(places["step"], tensors, facts)
    checkpoint.write_tensors(places["w.safetensors"], tensors)
    torch.save(tensors, places["w.pt"])
    return places


@pytest.mark.parametrize("kind", ["model", "step", "w.safetensors", "w.pt"])
def test_every_form_of_a_network_measures_the_same(stored: dict[str, Path], kind: str) -> None:
    words = ["model.width=7", "model.activation=relu"] if kind.startswith("w.") else []
    row = measured(stored[kind], *words)
    expected = measured(stored["model"])
    assert {k: row[k] for k in ("loss", "accuracy", "kept")} == {
        k: expected[k] for k in ("loss", "accuracy", "kept")
    }
    assert row["macs"] == row["params"] == 7 * 65
    assert [speed["batch"] for speed in row["latency"]] == [1, 256]
    assert all(0 < speed["min_s"] <= speed["median_s"] for speed in row["latency"])
    [(iteration, place)] = find_checkpoints(stored[kind])
    assert iteration == (30 if kind == "step" else 0)
    found = load_network(place, KEYS)
    assert found.architecture == NETWORK.architecture
    assert torch.equal(found.hidden.weight, NETWORK.hidden.weight)


def test_the_command_prints_what_it_measured(stored: dict[str, Path], capsys: Any) -> None:
    assert main(["evaluate", str(stored["model"]), "data.samples=100"]) == 0
    assert "455" in capsys.readouterr().out


def test_a_run_folder_names_all_its_checkpoints_and_is_no_network(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", "") as folder:
        for iteration in (10, 0):
            facts = {"iteration": iteration, "architecture": NETWORK.architecture}
            checkpoint.save(folder.checkpoint(iteration), NETWORK.state_dict(), facts)
    found = find_checkpoints(tmp_path / "run")
    assert [(step, path.name) for step, path in found] == [
        (0, "step_00000000"),
        (10, "step_00000010"),
    ]
    with pytest.raises(CheckpointError, match=r"is a run folder, choose one .*step_00000000"):
        measured(tmp_path / "run")


def test_what_holds_no_checkpoint_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="checkpoint: found none in .*accepted are a run"):
            find_checkpoints(path)


def test_a_bare_file_must_be_what_the_keys_say(stored: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"found 7 neurons, accepted model.width=9; set model.width=7"
    ):
        load_network(stored["w.pt"], Keys("two_layer", 9, "relu"))
    other = tmp_path / "other.safetensors"
    checkpoint.write_tensors(other, {"conv1.weight": torch.ones(3)})
    with pytest.raises(
        CheckpointError, match=r"no two-layer network; found conv1.weight, accepted"
    ):
        load_network(other, KEYS)


def test_a_checkpoint_whose_facts_are_damaged_is_refused(stored: dict[str, Path]) -> None:
    for change, message in (
        ({"iteration": -1}, "iteration: found -1"),
        ({"iteration": "x"}, "iteration: found 'x'"),
        ({"architecture": {"model": "two_layer", "width": 0}}, "model.width: found 0"),
        ({"architecture": None}, "model: found None, accepted two_layer"),
    ):
        state = checkpoint.read_json(stored["step"] / "state.json")
        place = stored["step"].parent / "damaged"
        place.mkdir(exist_ok=True)
        atomic.write_json(place / "state.json", {**state, **change})
        model = (stored["step"] / "model.safetensors").read_bytes()
        (place / "model.safetensors").write_bytes(model)
        with pytest.raises(CheckpointError, match=f"state.json: {message}"):
            load_network(find_checkpoints(place)[0][1], KEYS)


def test_data_of_another_size_is_refused(stored: dict[str, Path], capsys: Any) -> None:
    words = ["data=synthetic", "data.features=5", "data.planted=2"]
    assert main(["evaluate", str(stored["model"]), *words]) == 2
    assert "takes 64 inputs, data=synthetic has 5" in capsys.readouterr().err


def test_nothing_is_written(stored: dict[str, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    measured(stored["model"])
    assert sorted(tmp_path.rglob("*")) == before
