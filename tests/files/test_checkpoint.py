from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gfs_dist.errors import CheckpointError, InputError, StorageError
from gfs_dist.files import checkpoint, fingerprint, untrusted
from gfs_dist.runtime import resources as memory
from tests.files.test_atomic import names, small_disk

__all__ = ["small_disk"]

TENSORS = {"hidden.weight": torch.arange(6.0).reshape(2, 3), "output.weight": torch.ones(2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "c", TENSORS, {"iteration": 7}, {"velocity": torch.zeros(3)})
    return tmp_path / "c"


class Evil:
    """A pickle of this touches a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_what_is_saved_is_loaded(folder: Path) -> None:
    tensors, state, optimizer = checkpoint.load(folder)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert (state["iteration"], state["format"]) == (7, 1)
    assert torch.equal(optimizer["velocity"], torch.zeros(3))


def test_tensors_that_share_memory_are_written_for_each_name(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    tensors = {"a": whole, "b": whole, "end": whole[3:]}
    checkpoint.save(tmp_path / "step", tensors, {"iteration": 0})
    found = checkpoint.load(tmp_path / "step").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
@pytest.mark.parametrize("nested", [False, True])
def test_bare_state_dicts_are_read(tmp_path: Path, name: str, nested: bool) -> None:
    if name.endswith("safetensors"):
        checkpoint.write_tensors(tmp_path / name, TENSORS)
    else:
        torch.save({"state_dict": TENSORS} if nested else TENSORS, tmp_path / name)
    found = checkpoint.load(tmp_path / name)
    assert torch.equal(found.tensors["hidden.weight"], TENSORS["hidden.weight"])
    assert found.state == {}


@pytest.mark.parametrize("keep", [0, 4, 60, 150])
def test_a_truncated_file_is_refused(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a whole safetensors file"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"w": {"dtype": "nonsense", "shape": [1], "data_offsets": [0, 4]}},
        ["no", "dict"],
    ],
)
def test_absurd_headers_are_refused(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load(tmp_path / "w.safetensors")


def test_an_absurd_header_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    torch.save({"w": Evil(tmp_path / "ran")}, tmp_path / "w.pt", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"w.pt: refused, it holds more than tensors"):
        checkpoint.load(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


def test_the_switch_that_lets_pickles_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"w": Evil(tmp_path / "ran")}, tmp_path / "w.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, which lets"):
        checkpoint.load(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"\x80\x02nonsense"])
def test_a_damaged_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w.pt: (not a whole state dict|refused)"):
        checkpoint.load(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_flipped_bytes_are_refused_or_read_but_never_anything_else(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    if name == "w.pt":
        torch.save(TENSORS, file, _use_new_zipfile_serialization=False)
    else:
        checkpoint.write_tensors(file, TENSORS)
    whole = file.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for place in torch.randint(len(whole), (3,), generator=generator).tolist():
            damaged[place] ^= 1 + int(torch.randint(255, (), generator=generator))
        file.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            checkpoint.load(file)


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(1)],
        {"w": 1.0},
        {1: torch.ones(1)},
        {"w": torch.eye(2).to_sparse()},
        {"w": torch.ones(1, device="meta")},
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="accepted is a dict of dense tensors by name"):
        checkpoint.load(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_dtypes_that_nothing_here_computes_with_are_refused(tmp_path: Path, name: str) -> None:
    tensors = {"w": torch.zeros(2).to(torch.float8_e4m3fn)}
    if name == "w.pt":
        torch.save(tensors, tmp_path / name)
    else:
        checkpoint.write_tensors(tmp_path / name, tensors)
    with pytest.raises(CheckpointError, match=r"'w': found torch.float8_e4m3fn, accepted bool, "):
        checkpoint.load(tmp_path / name)


def test_a_small_file_does_not_become_an_enormous_tensor(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(2**36)}, tmp_path / "w.pt")
    before = memory.forget_peak()
    with pytest.raises(CheckpointError, match=r"found shape \(68719476736,\) with 4 bytes of n"):
        checkpoint.load(tmp_path / "w.pt")
    assert memory.peak_bytes() - before < 2**26


def test_a_compressed_state_dict_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2**22)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for name in whole.namelist():
            made.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match=r"w.pt: not a whole state dict: it unpacks to 16,7"):
        checkpoint.load(tmp_path / "w.pt")


def test_names_that_lead_elsewhere_are_only_names(tmp_path: Path) -> None:
    name = f"../../{tmp_path}/outside"
    torch.save({name: torch.ones(1)}, tmp_path / "w.pt")
    checkpoint.write_tensors(tmp_path / "w.safetensors", {name: torch.ones(1)})
    for file in ("w.pt", "w.safetensors"):
        assert list(checkpoint.load(tmp_path / file).tensors) == [name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pt", "w.safetensors"]


def test_what_never_ends_is_not_read(folder: Path) -> None:
    (folder / "state.json").unlink()
    os.mkfifo(folder / "state.json")
    with pytest.raises(CheckpointError, match=r"state.json: cannot be read: found no regular file"):
        checkpoint.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), complex(0, float("inf"))])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    wrong = torch.zeros(2, 3, dtype=torch.tensor(value).dtype)
    wrong[1, 2] = value
    checkpoint.write_tensors(tmp_path / "w.safetensors", {"hidden.weight": wrong})
    with pytest.raises(
        CheckpointError, match=rf"'hidden.weight' is {re.escape(str(value))} at index \(1, 2\)"
    ):
        checkpoint.load(tmp_path / "w.safetensors")


def test_tensors_of_another_checkpoint_are_refused(folder: Path) -> None:
    checkpoint.write_tensors(folder / "model.safetensors", {**TENSORS, "more": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"not those that state.json describes"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "found list, accepted a JSON object"),
        ("[" * 100_000, "cannot be read"),
        ('{"format": 2}', "found format 2, accepted 1"),
        ("{}", "found format None, accepted 1"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_malformed_state_is_refused(folder: Path, content: str | bytes, message: str) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "state.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=f"state.json: {message}"):
        checkpoint.load(folder)


def test_a_state_of_absurd_size_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "MAX_JSON_BYTES", 10)
    with pytest.raises(CheckpointError, match=r"state.json: cannot be read: too large"):
        checkpoint.load(folder)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.pt: no such checkpoint file"):
        checkpoint.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"state.json: cannot be read"):
        checkpoint.load(tmp_path)
    (tmp_path / "w.npy").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"found '.npy', accepted .safetensors, .pt, .pth"):
        checkpoint.load(tmp_path / "w.npy")


def test_a_fingerprint_knows_dtype_shape_and_bytes() -> None:
    x = torch.arange(6.0)
    known = [x, x.double(), x.reshape(2, 3), x + 1, x.to(torch.bfloat16), torch.tensor(0.0)]
    assert len({fingerprint(tensor) for tensor in known}) == len(known)
    assert fingerprint(x.reshape(2, 3).T) == fingerprint(x.reshape(2, 3).T.contiguous())
    assert fingerprint(x, x) != fingerprint(x)
    assert fingerprint(torch.zeros(0)) == fingerprint(torch.zeros(0))


@pytest.mark.parametrize("name", ["huge.safetensors", "huge.pt"])
def test_a_file_larger_than_memory_is_not_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "free_memory_bytes", lambda: 2**30)
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**31)  # takes no room on the disk
    with pytest.raises(CheckpointError, match=r"huge.*: has 2.0 GiB, found 1.0 GiB of memory free"):
        checkpoint.read_tensors(tmp_path / name)


def test_tensors_come_back_whatever_their_layout(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.zeros(0, 2), "c": torch.tensor(3)}
    tensors["d"] = torch.ones(2, requires_grad=True)
    checkpoint.write_tensors(tmp_path / "x.safetensors", tensors)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert names(tmp_path) == ["x.safetensors"]


def test_many_writers_of_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda i: checkpoint.write_tensors(path, {"x": torch.full((5000,), i)}), range(20)
            )
        )
    found = load_file(path)["x"]
    assert (found == found[0]).all()
    assert names(tmp_path) == ["x.safetensors"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing/x: cannot be written: .*No such file"):
        checkpoint.write_tensors(tmp_path / "missing" / "x", {"x": torch.zeros(2)})


def test_a_full_disk_leaves_the_old_file_and_nothing_else(small_disk: Path) -> None:
    path = small_disk / "x.safetensors"
    checkpoint.write_tensors(path, {"x": torch.ones(1000)})
    with pytest.raises(StorageError, match=r"x.safetensors: cannot be written: .*No space left"):
        checkpoint.write_tensors(path, {"x": torch.ones(100_000)})
    assert torch.equal(load_file(path)["x"], torch.ones(1000))
    assert names(small_disk) == ["x.safetensors"]
