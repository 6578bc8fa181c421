from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gfs_dist.errors import StorageError
from gfs_dist.pruning.calibration.activation_store import Environments, InFiles, InMemory
from gfs_dist.pruning.calibration.staged_run import Results
from tests.pruning.layerwise.test_track import equal


@pytest.fixture(params=["memory", "files"])
def envs(request: pytest.FixtureRequest, tmp_path: Path) -> Environments:
    return InMemory() if request.param == "memory" else InFiles(tmp_path)


def results() -> Results:
    whole = torch.arange(12.0).view(3, 4)
    return {
        "tensor": whole,
        "view": whole[1:, :2],
        "transposed": whole.T,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "mask": whole > 5,
        "numbers": torch.tensor([2**40, -1]),
        "half": torch.randn(3).bfloat16(),
        "chunks": (whole[:, :2], whole[:, 2:]),
        "list": [whole, 3, None],
        "nested": ((1, whole), [2.5, "text"]),
        "size": (3, 4),
        "count": 7,
        "factor": 0.1,
        "flag": False,
        "name with.dots/and slashes": 1,
        "nothing": None,
    }


def test_results_come_back_as_they_were(envs: Environments) -> None:
    envs.save("dense", 2, 5, results())
    again = envs.load("dense", 2, 5)
    expected = results()
    assert list(again) == list(expected)
    for name, value in expected.items():
        if name != "half":
            assert equal(again[name], value), name
    assert again["half"].dtype == torch.bfloat16
    assert again["tensor"].is_contiguous()


def test_a_size_comes_back_as_a_tuple_of_its_numbers(envs: Environments) -> None:
    envs.save("dense", 0, 0, {"size": torch.Size([2, 3])})
    assert tuple(envs.load("dense", 0, 0)["size"]) == (2, 3)


def test_tracks_stages_and_chunks_do_not_mix(envs: Environments) -> None:
    places = [("dense", 0, 0), ("dense", 0, 1), ("dense", 1, 0), ("small", 0, 0)]
    for number, place in enumerate(places):
        envs.save(*place, {"number": number})
    assert [envs.load(*place)["number"] for place in places] == [0, 1, 2, 3]
    envs.drop("dense", 0)
    assert [envs.load(*place)["number"] for place in places[2:]] == [2, 3]
    for place in places[:2]:
        with pytest.raises((KeyError, FileNotFoundError)):
            envs.load(*place)


def test_saving_again_replaces(envs: Environments) -> None:
    envs.save("small", 0, 0, {"x": torch.zeros(4), "gone": 1})
    envs.save("small", 0, 0, {"x": torch.ones(4)})
    found = envs.load("small", 0, 0)
    assert list(found) == ["x"]
    assert torch.equal(found["x"], torch.ones(4))


def test_what_is_loaded_may_be_changed(envs: Environments) -> None:
    envs.save("small", 0, 0, {"x": 1})
    envs.load("small", 0, 0)["y"] = 2
    assert envs.load("small", 0, 0) == {"x": 1}


def test_no_half_written_file_is_left_in_place(tmp_path: Path) -> None:
    envs = InFiles(tmp_path)
    envs.save("dense", 0, 0, {"x": torch.zeros(2)})
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]
    with pytest.raises(StorageError, match="missing"):
        InFiles(tmp_path / "missing").save("dense", 0, 0, {"x": torch.zeros(2)})


def test_a_value_of_another_kind_is_our_own_fault(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="slice"):
        InFiles(tmp_path).save("dense", 0, 0, {"x": slice(1, 2)})


def test_large_results_keep_their_bits(tmp_path: Path) -> None:
    value: Tensor = torch.randn(3, 5, 7)
    envs = InFiles(tmp_path)
    envs.save("dense", 0, 0, {"x": value})
    assert torch.equal(envs.load("dense", 0, 0)["x"], value)
