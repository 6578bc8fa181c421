"""``gfs evaluate`` of deep networks, however they are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gfs_dist import data, networks
from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.data import DataSpec
from gfs_dist.errors import CheckpointError, InputError, ShapeError
from gfs_dist.files import checkpoint
from gfs_dist.jobs import evaluate
from gfs_dist.workflows.reporter import Reporter

REAL = Path(__file__).parents[3] / "shared" / "data"
NAME = "resnet20_cifar"
ORIGIN = {"model": NAME, "num_classes": 10, "in_channels": 1}
SOURCE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, 10)

    def forward(self, x):
        return self.linear(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

def make(width=4):
    torch.manual_seed(0)
    return Small(width)
"""


def measured(path: Path, *words: str) -> dict[str, Any]:
    return evaluate.run(compose("evaluate", [f"path={path}", *words]), Reporter())["results"][0]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(5)
    network = networks.make(NAME, 10, in_channels=1)
    network.train()
    with torch.no_grad():
        network(torch.rand(64, 1, 8, 8))  # norms that have seen something
    return network.eval()


@pytest.fixture(scope="module")
def stored(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network, stored in every way."""
    folder, tensors = tmp_path_factory.mktemp("stored"), network.state_dict()
    places = {name: folder / name for name in ("model", "step", "w.safetensors", "w.pt")}
    networks.save(places["model"], network, example=torch.rand(2, 1, 8, 8), origin=ORIGIN)
    checkpoint.save(places["step"], tensors, {"iteration": 30, "architecture": ORIGIN})
    checkpoint.write_tensors(places["w.safetensors"], tensors)
    torch.save(tensors, places["w.pt"])
    return places


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder holds ``own_networks.py`` and a checkpoint of what it makes."""
    (tmp_path / "own_networks.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    made = networks.make_custom("own_networks:make", {"width": 5})
    origin = {"model": "custom", "factory": "own_networks:make", "kwargs": {"width": 5}}
    checkpoint.save("step", made.state_dict(), {"iteration": 7, "architecture": origin})
    checkpoint.write_tensors("w.safetensors", made.state_dict())
    return tmp_path


@pytest.mark.parametrize("kind", ["model", "step", "w.safetensors", "w.pt"])
def test_every_form_is_measured_on_the_test_split(
    network: nn.Module, stored: dict[str, Path], kind: str
) -> None:
    words = [f"model={NAME}"] if kind.startswith("w.") else []
    row = measured(stored[kind], *words)
    images = data.load_images(DataSpec())
    logits = network(images.inputs(images.x_test)).detach().double()
    loss = nn.functional.cross_entropy(logits, images.labels_test)
    right = (logits.argmax(1) == images.labels_test).double().mean()
    assert row["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert row["accuracy"] == pytest.approx(float(right), abs=1.5 / 360)
    assert row["loss_test"] == row["loss"]
    seen = images.inputs(images.x_train[data.calibration_rows(images.labels_train, 360, 0)])
    labels = images.labels_train[data.calibration_rows(images.labels_train, 360, 0)]
    found = networks.classify(network, [(seen, labels)])
    assert row["accuracy_train"] == pytest.approx(found.accuracy, abs=1.5 / 360)
    assert row["loss_train"] == pytest.approx(found.loss, rel=1e-5)
    assert (row["iteration"], row["objective"]) == (30 if kind == "step" else 0, "cross_entropy")
    assert row["params"] == networks.count_params(network)
    assert row["macs"] == networks.count_macs(network, torch.rand(1, 1, 8, 8))
    file = stored[kind] if kind.startswith("w.") else stored[kind] / "model.safetensors"
    assert row["file_bytes"] == file.stat().st_size
    assert [(speed["batch"], speed["device"]) for speed in row["latency"]] == [
        (1, "cpu"),
        (64, "cpu"),
    ]


def test_the_command_prints_what_it_measured(stored: dict[str, Path], capsys: Any) -> None:
    assert main(["evaluate", str(stored["step"]), "device=cpu"]) == 0
    printed = capsys.readouterr().out
    for word in ("loss", "accuracy", "macs", "params", "file_bytes", "us at batch 1", "batch 64"):
        assert word in printed
    assert f"{networks.count_params(networks.make(NAME, 10, 1)):,}" in printed


@pytest.mark.parametrize(("place", "given"), [("step", 2), ("w.safetensors", 3)])
def test_networks_of_the_users_own_are_made_by_their_factory(
    factory: Path, place: str, given: int
) -> None:
    words = ["model=custom", "model.factory=own_networks:make", "model.kwargs={width:5}"]
    row = measured(factory / place, *words[:given])
    assert row["params"] == 5 * 9 + 5 + 10 + 5 * 10 + 10


def test_a_checkpoint_that_names_code_of_pythons_own_runs_nothing(factory: Path) -> None:
    found = checkpoint.load(factory / "step")
    hostile = {"model": "custom", "factory": "os:mkdir", "kwargs": {"path": "made"}}
    checkpoint.save(factory / "bad", found.tensors, {"iteration": 0, "architecture": hostile})
    with pytest.raises(CheckpointError, match="os:mkdir is built in or of Python's own library"):
        measured(factory / "bad", "model=custom", "model.factory=os:mkdir")
    assert not (factory / "made").exists()


@pytest.mark.parametrize(
    ("kind", "words", "error", "message"),
    [
        ("w.pt", [], CheckpointError, "no two-layer network; .* of a deep network say model=NAME"),
        (
            "w.pt",
            ["model=resnet18_cifar"],
            CheckpointError,
            r"tensor 'conv1.weight': found \(16, 1",
        ),
        ("w.pt", ["model=resnet56_cifar"], CheckpointError, "tensor 'layer1.3.conv1.weight': miss"),
        ("step", ["data=mnist"], InputError, "data.root: has no default"),
        ("step", ["data=synthetic"], InputError, "data: found 'synthetic', accepted cifar10, dig"),
    ],
)
def test_what_does_not_fit_is_refused(
    stored: dict[str, Path], kind: str, words: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measured(stored[kind], *words)


def npz_words(path: Path, channels: int, first_label: int = 0) -> list[str]:
    x, y = np.zeros((20, channels, 8, 8), np.uint8), np.arange(20) % 10
    np.savez(path, x_train=x, y_train=y + first_label, x_test=x, y_test=y)
    return ["data=npz", f"data.path={path}"]


def test_images_that_do_not_fit_are_refused(stored: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"fails on an input of shape \(3, 8, 8\): .* 1 channels"):
        measured(stored["model"], *npz_words(tmp_path / "colour.npz", 3))
    with pytest.raises(ShapeError, match=r"output is \(1, 10\), accepted \(1, 12\), a logit for"):
        measured(stored["model"], *npz_words(tmp_path / "classes.npz", 1, first_label=2))


def test_few_test_images_are_timed_together(stored: dict[str, Path], tmp_path: Path) -> None:
    row = measured(stored["model"], *npz_words(tmp_path / "few.npz", 1))
    assert [speed["batch"] for speed in row["latency"]] == [1, 20]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not beside this repository")
class TestPublishedWeights:
    words = ("data=cifar10", f"data.root={REAL}", "model=resnet20_cifar")

    def test_inputs_are_normalised_as_they_need_it_without_being_told(self) -> None:
        stated = json.loads((REAL / "weights" / "resnet20.json").read_text())["input_pipeline"]
        found = compose("evaluate", ["path=x", *self.words]).data
        assert (found.mean, found.std) == (stated["mean"], stated["std"])

    @pytest.mark.slow
    def test_they_are_measured_as_published(self) -> None:
        row = measured(REAL / "weights" / "resnet20.safetensors", *self.words)
        assert row["accuracy"] == pytest.approx(0.9173, abs=1.5e-4)
        assert row["loss"] == pytest.approx(0.37266, abs=2e-5)
        assert (row["macs"], row["params"]) == (40_551_040, 269_722)
