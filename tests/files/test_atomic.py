from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gfs_dist.errors import StorageError
from gfs_dist.files import atomic, checkpoint


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a", "old")
    atomic.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_floats_that_are_not_finite_become_null() -> None:
    content = {"a": [float("nan"), 1.5], "b": (float("inf"),)}
    assert atomic.json_text(content) == '{"a": [null, 1.5], "b": [null]}'


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    atomic.write_text(tmp_path / "a", "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = "os.fsync" if call == "fsync" else "pathlib.Path.replace"
    monkeypatch.setattr(target, full)
    with pytest.raises(StorageError, match=r"a: cannot be written: No space left on device"):
        atomic.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_really_full_disk_leaves_earlier_checkpoints_whole(small_disk: Path) -> None:
    small, large = {"w": torch.ones(1000)}, {"w": torch.ones(100_000)}
    checkpoint.save(small_disk / "step_1", small, {"iteration": 1})
    with pytest.raises(StorageError, match=r"step_2/model.safetensors: .*No space left"):
        checkpoint.save(small_disk / "step_2", large, {"iteration": 2})
    assert names(small_disk) == ["step_1"]
    assert torch.equal(checkpoint.load(small_disk / "step_1").tensors["w"], small["w"])


def test_a_line_that_does_not_fit_is_taken_back(small_disk: Path) -> None:
    atomic.append_line(small_disk / "events", "first")
    with pytest.raises(StorageError, match="events: cannot be written: No space left"):
        atomic.append_line(small_disk / "events", "x" * 300_000)
    assert (small_disk / "events").read_text() == "first\n"


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing/a: cannot be written: No such file"):
        atomic.write_text(tmp_path / "missing" / "a", "")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic.folder(tmp_path / "f") as aside:
        (aside / "a").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    for content in ("one", "two"):
        with atomic.folder(tmp_path / "f") as aside:
            (aside / content).write_text(content)
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == ["two"]


def test_leftovers_and_torn_lines_are_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / f"{atomic.PREFIX}a-1-2").write_text("half")
    (tmp_path / f"{atomic.PREFIX}f-1-2").mkdir()
    (tmp_path / "events").write_text("whole\ntor")
    atomic.sweep(tmp_path)
    atomic.drop_torn_line(tmp_path / "events")
    assert names(tmp_path) == ["deep", "events"]
    assert names(tmp_path / "deep") == []
    assert (tmp_path / "events").read_text() == "whole\n"


@pytest.mark.parametrize("part", [1, 3, 2**16])
@pytest.mark.parametrize(
    ("content", "kept"),
    [("a\nlong line\ntorn", "a\nlong line\n"), ("a\n", "a\n"), ("torn", ""), ("", "")],
)
def test_a_torn_line_is_found_from_the_end(
    content: str, kept: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "PART_BYTES", part)
    (tmp_path / "events").write_text(content)
    atomic.drop_torn_line(tmp_path / "events")
    assert (tmp_path / "events").read_text() == kept
