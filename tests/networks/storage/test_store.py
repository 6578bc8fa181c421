from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist import networks
from gfs_dist.errors import CheckpointError
from gfs_dist.files import checkpoint
from gfs_dist.networks import TwoLayer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    networks.save(tmp_path / "m", TwoLayer.initialise(4, 3, "relu"))
    return tmp_path / "m"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_stored_network_is_read_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    network = TwoLayer.initialise(4, 3, "gelu", seed=5, dtype=dtype)
    networks.save(tmp_path / "m", network)
    found = networks.load(tmp_path / "m")
    assert found.architecture == network.architecture
    assert all(torch.equal(found.state_dict()[n], t) for n, t in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in found.parameters())


def test_it_says_what_it_is(folder: Path) -> None:
    assert json.loads((folder / "architecture.json").read_text()) == {
        "format": 1,
        "model": "two_layer",
        "width": 4,
        "features": 3,
        "activation": "relu",
        "dtype": "float64",
    }
    assert sorted(p.name for p in folder.iterdir()) == ["architecture.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet"}, "model: found 'resnet', accepted two_layer"),
        ({"model": ["two_layer"]}, r"model: found \['two_layer'\], accepted two_layer"),
        ({"width": "4"}, "model.width: found '4', accepted a whole number"),
        ({"width": True}, "model.width: found True"),
        ({"width": None}, "model.width: found None"),
        ({"width": 10**30}, "model.width: found 10"),
        ({"features": 0}, "model.features: found 0"),
        ({"dtype": "float8"}, "model.dtype: found 'float8', accepted float64, float32"),
        ({"dtype": []}, r"model.dtype: found \[\]"),
        ({"activation": "os.system"}, "model.activation: found 'os.system', accepted tanh"),
        ({"activation": []}, r"model.activation: found '\[\]', accepted tanh"),
    ],
)
def test_an_impossible_description_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    file = folder / "architecture.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=f"architecture.json: {message}"):
        networks.load(folder)


def test_an_enormous_network_is_refused_before_it_is_allocated(folder: Path) -> None:
    file = folder / "architecture.json"
    huge = {"width": 2**28 - 1, "features": 2**28 - 1}
    file.write_text(json.dumps({**json.loads(file.read_text()), **huge}))
    with pytest.raises(CheckpointError, match=r"found \(4, 3\), accepted \(268435455, 268435455\)"):
        networks.load(folder)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"output.weight": torch.ones(5)}, r"'output.weight': found \(5,\), accepted \(4,\)"),
        ({"extra": torch.ones(2)}, r"'extra': found \(2,\), accepted no such tensor"),
        ({"hidden.weight": None}, r"'hidden.weight': found no such tensor, accepted \(4, 3\)"),
        ({"output.weight": torch.ones(4, dtype=torch.int64)}, "found torch.int64, accepted float"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(
    folder: Path, tensors: dict[str, torch.Tensor | None], message: str
) -> None:
    good = checkpoint.read_tensors(folder / "model.safetensors")
    wrong = {n: t for n, t in {**good, **tensors}.items() if t is not None}
    checkpoint.write_tensors(folder / "model.safetensors", wrong)
    with pytest.raises(CheckpointError, match=f"model.safetensors: tensor .*{message}"):
        networks.load(folder)


def test_missing_parts_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: no such checkpoint file"):
        networks.load(folder)
    with pytest.raises(CheckpointError, match=r"architecture.json: cannot be read"):
        networks.load(folder / "none")
