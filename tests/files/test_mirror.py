"""A run folder at a URL: what goes there, in which order, and how it comes back.

Reaches inside to order the thread's rounds, and to end a run as a killed process would: without
another copy.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from gfs_dist.errors import ConfigError, RunFolderError, StorageError
from gfs_dist.files import RunFolder, atomic, mirror
from gfs_dist.files.mirror import kept_files
from gfs_dist.files.remote import Remote

URL = "memory://bucket/run"


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(mirror, "PAUSE_S", 0.0)
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names as they arrive."""
    names: list[str] = []
    for kind in ("put", "write"):
        original = getattr(Remote, kind)

        def send(self: Remote, name: str, what: Any, original: Any = original) -> None:
            original(self, name, what)
            names.append(name)

        monkeypatch.setattr(Remote, kind, send)
    return names


def there() -> list[str]:
    return Remote(URL, "out").files()


def copies(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "state").glob("gfs/runs/*"))


def fill(folder: RunFolder, report: str = "finished") -> None:
    """What a run would write."""
    for place in (folder.checkpoint(5), folder.model("a")):
        place.mkdir()
        (place / "model.safetensors").write_text("tensors")
        (place / "state.json").write_text("{}")
    (folder.path / mirror.SCRATCH).mkdir()
    (folder.path / mirror.SCRATCH / "sum").touch()
    (folder.path / f"{atomic.PREFIX}half").touch()
    folder.path_file("a").write_text("{}")
    atomic.write_json(folder.report, {"status": report})


WHOLE = [
    "checkpoints/step_00000005/model.safetensors",
    "checkpoints/step_00000005/state.json",
    "config.yaml",
    "models/a/model.safetensors",
    "models/a/state.json",
    "paths/a.json",
    "report.json",
]


def test_everything_worth_keeping_lies_there_at_the_end_and_nothing_here(tmp_path: Path) -> None:
    with RunFolder.create(URL, "x: 1") as folder:
        assert folder.place == URL
        assert there() == ["config.yaml"]
        fill(folder)
        assert kept_files(folder.path) == WHOLE
    assert there() == WHOLE
    assert Remote(URL, "out").read("report.json") == b'{\n "status": "finished"\n}\n'
    assert copies(tmp_path) == []


def test_tensors_come_before_their_json_and_the_report_after_all(sent: list[str]) -> None:
    with RunFolder.create(URL, "") as folder:
        fill(folder)
    assert sent[0] == "config.yaml"
    assert sent[-1] == "report.json"
    for place in ("checkpoints/step_00000005", "models/a"):
        assert sent.index(f"{place}/model.safetensors") < sent.index(f"{place}/state.json")


def test_a_report_stays_here_until_it_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = threading.Semaphore(0)
    copy = mirror.Mirror._copy

    def round_(self: mirror.Mirror) -> None:
        copy(self)
        rounds.release()

    monkeypatch.setattr(mirror.Mirror, "_copy", round_)
    with RunFolder.create(URL, "") as folder:
        assert rounds.acquire(timeout=600)
        atomic.write_json(folder.report, {"status": "stopped"})
        folder.written()
        assert rounds.acquire(timeout=600)
        assert json.loads(Remote(URL, "out").read("report.json")) == {"status": "stopped"}
        atomic.write_json(folder.report, {"status": "finished"})  # its pages are not there yet
        assert folder._mirror is not None
        folder._mirror._changed.set()
        assert rounds.acquire(timeout=600)
        assert json.loads(Remote(URL, "out").read("report.json")) == {"status": "stopped"}
    assert json.loads(Remote(URL, "out").read("report.json")) == {"status": "finished"}


def test_only_what_changed_is_sent_again_and_what_went_goes(sent: list[str]) -> None:
    with RunFolder.create(URL, "") as folder:
        fill(folder)
    sent.clear()
    with RunFolder.resume(URL) as folder:
        assert kept_files(folder.path) == WHOLE
        folder.path_file("a").unlink()
        atomic.write_text(folder.path_file("b"), "{}")
    assert sent == ["paths/b.json"]
    assert there() == [name.replace("paths/a", "paths/b") for name in WHOLE]


def test_what_was_broken_off_does_not_come_back(memory: Any) -> None:
    with RunFolder.create(URL, "") as folder:
        fill(folder)
    memory.rm("/bucket/run/checkpoints/step_00000005/state.json")
    memory.pipe("/bucket/run/.writing-x", b"")
    memory.pipe("/bucket/run/events.jsonl", b'{"a": 1}\n{"b"')
    with RunFolder.resume(URL) as folder:
        assert folder.checkpoints() == []
        assert folder.events.read_text() == '{"a": 1}\n'
    assert "checkpoints/step_00000005/model.safetensors" not in there()
    assert ".writing-x" not in there()
    assert memory.cat("/bucket/run/events.jsonl") == b'{"a": 1}\n'


def test_a_leftover_of_a_dead_run_does_not_count(tmp_path: Path) -> None:
    folder = RunFolder.create(URL, "first")
    (folder.path / "old").touch()
    folder._closing.pop_all()  # as if it had died here
    assert folder._lock is not None
    folder._lock.release()
    with RunFolder.resume(URL) as folder:
        assert kept_files(folder.path) == ["config.yaml"]


@pytest.mark.parametrize("key", ["out", "resume"])
def test_one_run_at_a_time(key: str, memory: Any) -> None:
    with RunFolder.create(URL, ""):
        if key == "out":
            memory.rm("/bucket/run", recursive=True)
        with pytest.raises(RunFolderError, match="in use by process"):
            RunFolder.resume(URL) if key == "resume" else RunFolder.create(URL, "")


def test_what_is_not_empty_is_refused_and_left_alone(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/bucket/run/a/b", b"theirs")
    with pytest.raises(RunFolderError, match=rf"^out: {URL} exists and is not empty \(a\); choose"):
        RunFolder.create(URL, "")
    assert there() == ["a/b"]
    with pytest.raises(RunFolderError, match=rf"^resume: {URL} is no run folder"):
        RunFolder.resume(URL)
    assert there() == ["a/b"]


def test_a_name_that_leads_out_is_refused(memory: Any) -> None:
    memory.store["/bucket/run/../../x"] = memory.open("/bucket/run/config.yaml", "wb")
    with pytest.raises(ConfigError, match=r"holds '.*', which leads out of it"):
        RunFolder.resume(URL)


@pytest.fixture
def failing(memory: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes storage take only so many files more."""

    def fail_after(count: int) -> None:
        left, put = itertools.count(), type(memory).put_file

        def put_file(self: Any, here: str, target: str) -> None:
            if next(left) >= count:
                raise PermissionError("no\nmore")
            put(self, here, target)

        monkeypatch.setattr(type(memory), "put_file", put_file)

    return fail_after


def test_nothing_begins_where_nothing_can_be_written(failing: Any, tmp_path: Path) -> None:
    failing(0)
    with pytest.raises(ConfigError, match=rf"^out: {URL} cannot be written: no$"):
        RunFolder.create(URL, "")
    assert copies(tmp_path) == []


def test_storage_that_fails_meets_the_job_and_its_end(failing: Any, tmp_path: Path) -> None:
    failing(1)
    folder = RunFolder.create(URL, "")
    folder.append_event({"event": "step"})
    assert folder._mirror is not None
    folder._mirror._thread.join(10)
    with pytest.raises(StorageError, match=rf"^out: {URL} cannot be written: no$"):
        folder.written()
    with pytest.raises(StorageError, match=rf"cannot be written: no; what .* lies in {tmp_path}"):
        folder.close()
    (copy,) = copies(tmp_path)
    assert kept_files(copy) == ["config.yaml", "events.jsonl"]
    with RunFolder.create(tmp_path / "other", ""):  # and its lock is free
        pass


def test_the_jobs_own_error_is_told_first(failing: Any) -> None:
    failing(1)
    with pytest.raises(ValueError, match="mine") as caught, RunFolder.create(URL, "") as folder:
        fill(folder)
        raise ValueError("mine")
    (note,) = caught.value.__notes__
    assert note.startswith(f"out: {URL} cannot be written: no; what is missing there lies in")


def test_writers_end_before_the_last_round() -> None:
    class Writer:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            (folder.path / "last").touch()

    with RunFolder.create(URL, "") as folder:
        folder.close_first(Writer())
    assert "last" in there()


def test_files_on_disks_are_replaced_whole(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    with RunFolder.create(url, "x"):
        before = (tmp_path / "there" / "config.yaml").stat().st_ino
    with RunFolder.resume(url) as folder:
        atomic.write_text(folder.config, "y")
    assert (tmp_path / "there" / "config.yaml").read_text() == "y"
    assert (tmp_path / "there" / "config.yaml").stat().st_ino != before
    assert [item.name for item in (tmp_path / "there").iterdir()] == ["config.yaml"]
