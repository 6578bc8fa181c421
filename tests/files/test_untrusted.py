"""Nothing in a run folder leads out of it, and nothing in it makes a reader wait.

Reaches inside for ways to open a file that commands use only when a run is at work.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfs_dist.errors import RunFolderError
from gfs_dist.files import RunFolder, atomic
from gfs_dist.files.lock import FolderLock
from gfs_dist.files.untrusted import open_regular, refuse_outside_links


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty one; beside it lies ``secret``, a file that has to stay what it is."""
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture(params=["link", "dangling", "inside", "pipe", "socket", "folder"])
def odd(request: pytest.FixtureRequest, folder: Path) -> Iterator[Path]:
    """What is no regular file, as ``run/odd``."""
    path = folder / "odd"
    if request.param in ("link", "dangling", "inside"):
        (folder / "other").write_text("ours")
        target = {"link": "../secret", "dangling": "../nothing", "inside": "other"}
        path.symlink_to(target[request.param])
    elif request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        if request.param == "socket":
            server.bind(os.path.relpath(path))
        yield path
    assert (folder.parent / "secret").read_text() == "mine"
    assert not (folder.parent / "nothing").exists()


def test_only_plain_files_are_opened(odd: Path) -> None:
    for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT, atomic.APPEND):
        with pytest.raises(RunFolderError, match=r"odd: found a .*, accepted a regular file"):
            open_regular(odd, flags)


def test_a_line_is_appended_to_plain_files_only(odd: Path) -> None:
    with pytest.raises(RunFolderError, match="odd: found a"):
        atomic.append_line(odd, "line")


def test_a_lock_is_a_plain_file(odd: Path) -> None:
    odd.rename(odd.parent / ".lock")
    for make in (FolderLock, lambda place: RunFolder.create(place, "")):
        with pytest.raises(RunFolderError, match=r"\.lock: found a|exists and is not empty"):
            make(odd.parent)


def test_what_leads_out_or_is_no_file_is_found_at_any_depth(folder: Path) -> None:
    (folder / "models" / "a").mkdir(parents=True)
    (folder / "models" / "a" / "model.safetensors").touch()
    (folder / "models" / "best").symlink_to("a")
    (folder / "report.md").symlink_to("models/a/model.safetensors")
    refuse_outside_links(folder)
    for target in ("../../../secret", "/", "../../../nothing"):
        (folder / "models" / "a" / "x").symlink_to(target)
        with pytest.raises(RunFolderError, match=r"models/a/x: found a link to /.*, accepted none"):
            refuse_outside_links(folder)
        (folder / "models" / "a" / "x").unlink()
    os.mkfifo(folder / "models" / "a" / "x")
    with pytest.raises(RunFolderError, match=r"models/a/x: found a pipe, accepted files and"):
        refuse_outside_links(folder)


def test_a_folder_that_a_link_of_the_users_names_is_as_good(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to("run")
    with RunFolder.create(link, "") as made:
        made.append_event({"event": "step"})
        (made.model("a")).mkdir()
    with RunFolder.resume(link) as made:
        assert made.path_file("a") == link / "paths" / "a.json"
    assert (folder / "events.jsonl").is_file()
    assert link.is_symlink()


def test_a_folder_that_leads_out_is_made_in_no_run_folder(folder: Path) -> None:
    with RunFolder.create(folder, "") as made:
        (folder / "plots").symlink_to("..")
        with pytest.raises(RunFolderError, match="'plots' leads out of the run folder"):
            _ = made.plots


def test_leftovers_of_writers_go_without_what_they_point_to(folder: Path) -> None:
    (folder / f"{atomic.PREFIX}a").symlink_to("../secret")
    (folder / f"{atomic.PREFIX}b").symlink_to("..")
    atomic.sweep(folder)
    assert list(folder.iterdir()) == []
    (folder / "models").symlink_to("..")
    with atomic.folder(folder / "models") as aside:
        (aside / "x").touch()
    assert [item.name for item in (folder / "models").iterdir()] == ["x"]
    assert (folder.parent / "secret").read_text() == "mine"
