"""``gfs finetune`` from the outside: what it takes, what it leaves, killed in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist import data, networks
from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.data import DataSpec
from gfs_dist.files import checkpoint
from gfs_dist.networks import TwoLayer
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.structure.shrink import shrink
from gfs_dist.training import DeepSpec
from gfs_dist.workflows.train_deep import finetune_spec
from tests.jobs.deep_runs import MODEL, TRAIN, write_factory
from tests.jobs.test_pretrain_command import KILLED, same, weights

SMALL = ["data.samples=200", "train.iterations=15", "train.checkpoint_every=10", "train.batch=32"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with a factory in it."""
    write_factory(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tune(*words: str) -> int:
    return main(["finetune", *words])


def result(out: Path) -> dict[str, Any]:
    found = json.loads((out / "report.json").read_text())
    assert (found["job"], found["status"], found["dense"]) == ("finetune", "finished", None)
    [row] = found["results"]
    return dict(row)


def measured(network: torch.nn.Module) -> float:
    digits = data.load_images(DataSpec())
    batch = digits.inputs(digits.x_test), digits.labels_test
    return networks.classify(network, [batch]).accuracy


@pytest.fixture
def pruned(folder: Path) -> Path:
    """A trained ResNet20 with half of each inner width gone, in ``models/half``."""
    words = ["model=resnet20_cifar", "train.iterations=25", "train.batch=32", "data.samples=400"]
    assert main(["pretrain", *words, "out=dense"]) == 0
    network = networks.make("resnet20_cifar", 10, 1)
    networks.load_state(network, weights(folder / "dense"), "here")
    example = torch.zeros(2, 1, 8, 8)
    structure = find_structure(network, example)
    kept = {layer.name: range(layer.num_candidates // 2) for layer in structure.layers}
    origin = {"model": "resnet20_cifar", "num_classes": 10, "in_channels": 1}
    small = shrink(network, structure, kept)
    (folder / "models").mkdir()
    networks.save(folder / "models" / "half", small, example=example, origin=origin)
    return folder / "models" / "half"


def test_a_pruned_network_is_trained_on_and_stored_in_its_smaller_form(pruned: Path) -> None:
    assert tune(str(pruned), *SMALL, "out=tuned") == 0
    row = result(Path("tuned"))
    before, after = networks.load(pruned), networks.load(Path("tuned") / row["model"])
    assert (row["name"], row["model"], row["iteration"]) == ("half", "models/half", 15)
    assert row["accuracy_before"] == measured(before)
    assert row["accuracy"] == row["accuracy_after"]["finetune"] == measured(after)
    assert row["accuracy"] > row["accuracy_before"]
    assert [point["iteration"] for point in row["checkpoints"]] == [0, 10, 15]
    assert row["checkpoints"][-1]["accuracy_train"] == row["accuracy_train"] > row["accuracy"] / 2
    shapes = [tensor.shape for tensor in before.state_dict().values()]
    assert [tensor.shape for tensor in after.state_dict().values()] == shapes
    assert row["params"] == networks.count_params(before)


def test_killed_it_goes_on_to_the_same_bits(pruned: Path) -> None:
    words = [f"path={pruned}", *SMALL]
    assert main(["finetune", *words, "out=whole"]) == 0
    script = KILLED.replace("pretrain", "finetune")
    command = [sys.executable, "-c", script, "step 13", *words, "out=killed"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert tune("resume=killed") == 0
    assert same(weights(Path("killed"), 15), weights(Path("whole"), 15))
    assert result(Path("killed")) == result(Path("whole"))


def test_a_network_that_changed_is_refused_on_resume(pruned: Path, capsys: Any) -> None:
    assert tune(str(pruned), *SMALL, "out=tuned") == 0
    file = pruned / checkpoint.MODEL
    tensors = checkpoint.read_tensors(file)
    tensors["linear.bias"] += 1
    checkpoint.write_tensors(file, tensors)
    assert tune("resume=tuned") == 2
    assert "resume: the network changed since" in capsys.readouterr().err


def test_a_bare_state_dict_and_a_checkpoint_are_taken_too(folder: Path, capsys: Any) -> None:
    assert main(["pretrain", *MODEL, *TRAIN, "out=dense"]) == 0
    last = folder / "dense" / "checkpoints" / "step_00000025"
    assert tune(str(last), *MODEL, *SMALL, "out=one") == 0
    assert tune(str(last / "model.safetensors"), *MODEL, *SMALL, "out=two") == 0
    names = [result(Path(out))["name"] for out in ("one", "two")]
    assert names == ["step_00000025", "model"]
    assert same(weights(Path("one"), 15), weights(Path("two"), 15))
    odd = (folder / "my net=é").with_suffix(".safetensors")
    (last / "model.safetensors").rename(odd)
    assert tune(f'path="{odd}"', *MODEL, *SMALL, "out=three") == 0
    assert result(Path("three"))["name"] == "my_net=_"
    stored = networks.load(Path("two/models/model"))
    assert measured(stored) == result(Path("two"))["accuracy"]


def test_defaults_are_the_papers_and_a_dry_run_tells_them(pruned: Path, capsys: Any) -> None:
    config = compose("finetune", [f"path={pruned}"])
    assert finetune_spec(config) == DeepSpec(iterations=2500, lr=0.01, checkpoint_every=500)
    capsys.readouterr()
    assert tune(str(pruned), "out=tuned", "--dry-run") == 0
    assert "2,500 iterations (208.3 epochs) of 128 samples, lr 0.01 to 0" in capsys.readouterr().out
    assert not Path("tuned").exists()


def test_what_is_no_deep_network_is_refused(folder: Path, capsys: Any) -> None:
    networks.save(folder / "two", TwoLayer.initialise(7, 64, "relu", seed=4))
    torch.save(TwoLayer.initialise(7, 64, "relu", seed=4).state_dict(), folder / "two.pt")
    main(["pretrain", "train.iterations=2", "train.checkpoint_every=1", "out=run"])
    for path, words in (
        ("two", "two is a two-layer network, accepted are deep ones"),
        ("two.pt", "model: found two_layer, accepted is the deep network of two.pt"),
        ("run", "run is a run folder, choose one network in it: run/checkpoints/step_00000002"),
        ("nothing", "found none in nothing"),
    ):
        assert tune(path, "out=tuned") == 2
        assert words in capsys.readouterr().err
    assert tune("two", "train=gd", "out=tuned") == 2
    assert "train: found gd, accepted sgd" in capsys.readouterr().err
    assert not Path("tuned").exists()
