"""``gfs prune`` of a deep network: what does not fit is refused, with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist import data, networks
from gfs_dist.cli import main
from gfs_dist.data import DataSpec
from gfs_dist.networks import TwoLayer
from tests.jobs.deep_runs import (
    ALONE,
    FACTORY,
    LAST,
    OWN,
    RUN,
    dense_network,
    forget_checksums,
    prune,
    tensors,
)


def test_a_checkpoint_that_changed_is_refused_on_resume(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "net.pt"
    torch.save(dense_network().state_dict(), file)
    words = [*OWN, *RUN, "runtime=none"]
    prune(tmp_path / "run", f"checkpoint={file}", *words)
    state = torch.load(file)
    state["6.bias"] += 1
    torch.save(state, file)
    assert main(["prune", f"resume={tmp_path / 'run'}", FACTORY]) == 2
    assert "resume: the checkpoint changed since" in capsys.readouterr().err


def test_a_damaged_path_is_refused_on_resume(tmp_path: Path, capsys: Any) -> None:
    prune(tmp_path / "run", *ALONE)
    file = tmp_path / "run/paths/step_00000025/3.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "picks": [7, *content["picks"][1:]]}))
    assert main(["prune", f"resume={tmp_path / 'run'}", FACTORY]) == 2
    assert f"{file} is not what it was" in capsys.readouterr().err
    forget_checksums(tmp_path / "run")
    assert main(["prune", f"resume={tmp_path / 'run'}", FACTORY]) == 2
    assert "3.json holds no path: pick 7" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_refused(capsys: Any) -> None:
    state = dense_network().state_dict()
    for value, words in (
        (float("nan"), "tensor '3.weight' is nan"),
        (1e38, "NaN or infinity at sample 0, first after layer '3'"),
    ):
        state["3.weight"] = torch.full_like(state["3.weight"], value)
        torch.save(state, "wrong.pt")
        model = OWN
        assert main(["prune", "checkpoint=wrong.pt", *model, *RUN, "out=never"]) == 2
        assert words in capsys.readouterr().err
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["budget.macs=1%"], 3, r"budget.macs: found 1% (124 multiply-adds), but with 1 channel"),
        (
            ["budget.macs=90%", "budget.params=1%"],
            3,
            "budget.params: found 1% (14 parameters), but",
        ),
        (["budget.macs=90%", "budget.memory=1%"], 3, "budget.memory: found 1% (104 bytes at"),
        (
            ["budget.widths=w.json", "budget.uniform=true"],
            2,
            "budget.uniform: found with budget.wid",
        ),
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
            "tiny_digits:make; accepted tiny_digits:make\n",
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
    own = [] if any(word.startswith("model=") for word in words) else OWN
    assert main(["prune", LAST[0], *own, *RUN, "runtime=none", "out=never", *words]) == code
    assert message in capsys.readouterr().err
    assert not Path("never").exists()


def test_images_of_another_shape_are_refused(tmp_path: Path, capsys: Any) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.random((40, 2, 8, 8), np.float32), np.arange(40) % 10
    np.savez(tmp_path / "odd.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = ["data=npz", f"data.path={tmp_path / 'odd.npz'}", "runtime=none", "out=never"]
    assert main(["prune", "checkpoint=dense", *OWN, *words]) == 2
    assert "fails on an input of shape (2, 8, 8)" in capsys.readouterr().err


FLAT = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
TWO_INPUTS = """
from torch import nn

class Net(nn.Linear):
    def forward(self, x, mask):
        return super().forward(x.flatten(1) * mask)

def make():
    return Net(64, 10)
"""
RECURRENT = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.rows(x[:, 0])[0][:, -1])

make = Net
"""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (FLAT, "nothing in it can be pruned ('1': network output); accepted is one where"),
        (TWO_INPUTS, "argument: 'mask'; wrap the network in a module whose forward takes one"),
        (RECURRENT, "network Net: nothing in it can be pruned ('head': network output)"),
    ],
    ids=["one layer", "two inputs", "recurrent"],
)
def test_a_network_that_cannot_be_pruned_says_why_and_what_to_do(
    source: str, message: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"net_{len(source)}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    network = networks.make_custom(f"{name}:make", {})
    torch.save(network.state_dict(), "net.pt")
    words = ["checkpoint=net.pt", "model=custom", f"model.factory={name}:make", "out=never"]
    assert main(["prune", *words, *RUN]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


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
    [row] = prune(out, LAST[0], *OWN, *words, "runtime=none")["results"]
    assert tensors(out, row)
    arrays["x_train"] = arrays["x_train"] * 0.5
    np.savez(tmp_path / "digits.npz", **arrays)
    data_again = ["prune", f"resume={out}", FACTORY]
    from gfs_dist.workflows.stored_networks import read_samples

    read_samples.cache_clear()  # as in a new process
    assert main(data_again) == 2
    assert "resume: data=npz changed since" in capsys.readouterr().err
