"""A run folder comes back to a folder, or goes to a URL."""

from __future__ import annotations

import itertools
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from gfs_dist.errors import InputError, RunFolderError, StorageError
from gfs_dist.files import atomic
from gfs_dist.files.mirror import kept_files
from gfs_dist.service.fetching import fetch, fetch_to_url
from gfs_dist.service.jobs import Job
from gfs_dist.service.packing import pack

FILES = ["config.yaml", "models/a/model.safetensors", "report.json", "zzz.txt"]


class Cluster:
    """Prints what a job on it would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def output(self, *_: Any) -> str:
        return pack(self.folder)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for name in [*FILES, f"{atomic.PREFIX}half"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "secret").write_text("of another folder")
    (folder / "logs").symlink_to(tmp_path)
    (folder / "models" / "a" / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "models" / "pipe")  # to be read from for ever
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    return folder


def job(folder: Path) -> Job:
    return Job("a-1", "a", 1, "prune", "SUCCEEDED", str(folder), "0", "", 1.0, 2.0, 0, "")


@pytest.fixture(params=["seen", "unseen"])
def source(request: pytest.FixtureRequest, run: Path, tmp_path: Path) -> tuple[Any, Job]:
    """A job and its cluster; its folder can be seen from here, or only from the cluster."""
    return Cluster(run), job(run if request.param == "seen" else tmp_path / "elsewhere")


@pytest.fixture
def memory() -> Any:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_to_a_folder(source: tuple[Any, Job], tmp_path: Path) -> None:
    assert fetch(*source, tmp_path / "back") == len(FILES)
    found = [file for file in (tmp_path / "back").rglob("*") if file.is_file()]
    assert sorted(str(file.relative_to(tmp_path / "back")) for file in found) == FILES


def test_to_a_url_with_the_report_last(
    source: tuple[Any, Job], memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, order = type(memory).put_file, list[str]()

    def put_file(self: Any, here: str, there: str) -> None:
        order.append(there)
        put(self, here, there)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    assert fetch_to_url(*source, "memory://bucket/run") == len(FILES)
    assert sorted(memory.find("/bucket/run")) == [f"/bucket/run/{name}" for name in FILES]
    assert memory.cat("/bucket/run/models/a/model.safetensors") == b"models/a/model.safetensors"
    assert order[-1] == "/bucket/run/report.json"
    with pytest.raises(RunFolderError, match="memory://bucket/run exists and is not empty"):
        fetch_to_url(*source, "memory://bucket/run")


def test_from_a_url_to_a_folder_or_to_another(memory: Any, tmp_path: Path) -> None:
    for name in [*FILES, f"{atomic.PREFIX}half", "checkpoints/a/model.safetensors"]:
        memory.pipe(f"/bucket/run/{name}", name.encode())
    memory.pipe("/bucket/run/models/a/architecture.json", b"{}")
    whole = sorted([*FILES, "models/a/architecture.json"])
    cluster: Any = Cluster(tmp_path)
    there = replace(job(tmp_path), run_folder="memory://bucket/run")
    assert fetch(cluster, there, tmp_path / "back") == len(whole)
    assert kept_files(tmp_path / "back") == whole
    assert fetch_to_url(cluster, there, "memory://other/run") == len(whole)
    assert sorted(memory.find("/other/run")) == [f"/other/run/{name}" for name in whole]
    nothing = replace(there, run_folder="memory://nothing")
    with pytest.raises(RunFolderError, match="memory://nothing holds nothing yet"):
        fetch(cluster, nothing, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [("zz://a/b", "DIR: found zz://a/b: Protocol not known"), ("s3://a/b", "Install s3fs")],
)
def test_a_url_that_nobody_here_can_write(run: Path, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fetch_to_url(Cluster(run), job(run), url)  # type: ignore[arg-type]


def test_storage_that_fails_is_named(
    run: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = itertools.count()

    def put_file(*_: Any) -> None:
        if next(count):
            raise PermissionError("no\nmore")

    monkeypatch.setattr(type(memory), "put_file", put_file)
    with pytest.raises(StorageError, match=r"DIR: memory://b/c cannot be written: no$"):
        fetch_to_url(Cluster(run), job(run), "memory://b/c")  # type: ignore[arg-type]


def test_a_link_of_the_users_is_filled_where_it_points(
    source: tuple[Any, Job], tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    for name, target in (("there", "disk"), ("not_yet", "disk/new")):
        link = tmp_path / name
        link.symlink_to(target)
        assert fetch(*source, link) == len(FILES)
        assert link.is_symlink()
        assert kept_files(tmp_path / target) == FILES
        for item in (tmp_path / target).iterdir():
            atomic.remove(item)
