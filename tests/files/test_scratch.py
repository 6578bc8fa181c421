from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gfs_dist.errors import StorageError
from gfs_dist.files.scratch import write_tensors
from tests.files.test_atomic import names, small_disk

__all__ = ["small_disk"]


def test_tensors_come_back_whatever_their_layout(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.zeros(0, 2), "c": torch.tensor(3)}
    tensors["d"] = torch.ones(2, requires_grad=True)
    write_tensors(tmp_path / "x.safetensors", tensors)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert names(tmp_path) == ["x.safetensors"]


def test_many_writers_of_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_tensors(path, {"x": torch.full((5000,), i)}), range(40)))
    found = load_file(path)["x"]
    assert (found == found[0]).all()
    assert names(tmp_path) == ["x.safetensors"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing/x: cannot be written: .*No such file"):
        write_tensors(tmp_path / "missing" / "x", {"x": torch.zeros(2)})


def test_a_full_disk_leaves_the_old_file_and_nothing_else(small_disk: Path) -> None:
    path = small_disk / "x.safetensors"
    write_tensors(path, {"x": torch.ones(1000)})
    with pytest.raises(StorageError, match=r"x.safetensors: cannot be written: .*No space left"):
        write_tensors(path, {"x": torch.ones(100_000)})
    assert torch.equal(load_file(path)["x"], torch.ones(1000))
    assert names(small_disk) == ["x.safetensors"]
