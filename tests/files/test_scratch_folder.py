"""Scratch folders go with their process, or with the next one; those of the living stay.

Reaches inside for folders that look like scratch folders and are not.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import gfs_dist
from gfs_dist.files import scratch_folder
from gfs_dist.files.lock import FolderLock
from gfs_dist.files.scratch_folder import OWNER, ScratchFolder

HOLDING = """
    import sys, threading
    from gfs_dist.files.scratch_folder import ScratchFolder, sigterm_unwinds

    def search():
        with sigterm_unwinds(), ScratchFolder("prune"):
            print("searching", flush=True)
            sys.stdin.read()

    search()
"""

BUSY = """
    import sys, threading, torch, gfs_dist
    from gfs_dist.pruning.pruner import Pruner

    def search(pruner, **_):
        print("searching", flush=True)
        sys.stdin.read()

    Pruner.search = search
    network = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    gfs_dist.prune(network, [torch.ones(8, 4)], budget={"macs": 0.5})
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, of this process and those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


@contextmanager
def busy(program: str = BUSY) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a search."""
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "searching\n"
            yield process
        finally:
            process.kill()


def test_a_killed_search_leaves_a_folder_that_the_next_one_removes(temporary: Path) -> None:
    with busy() as process:
        [left] = names(temporary)
        assert left.startswith("gfs_prune_")
        ScratchFolder("prune").close()
        assert names(temporary) == [left]
        process.kill()
        process.wait()
    assert (temporary / left / "work" / "workspace" / "samples").is_dir()
    with ScratchFolder("select") as mine:
        assert names(temporary) == [mine.parent.name]
    assert names(temporary) == []


def test_a_search_that_is_asked_to_end_leaves_nothing(temporary: Path) -> None:
    with busy() as process:
        assert len(names(temporary)) == 1
        process.terminate()
        assert process.wait() == -signal.SIGTERM
    assert names(temporary) == []


def test_a_handler_of_the_users_is_the_one_that_hears(temporary: Path) -> None:
    handling = """
        import os, signal
        signal.signal(signal.SIGTERM, lambda *_: (print("heard", flush=True), os._exit(7)))
    """
    with busy(textwrap.dedent(handling) + textwrap.dedent(HOLDING)) as process:
        process.terminate()
        assert process.wait() == 7
        assert process.stdout is not None
        assert process.stdout.read() == "heard\n"


def test_beside_the_main_thread_signals_are_left_alone(temporary: Path) -> None:
    *before, call = textwrap.dedent(HOLDING).strip().splitlines()
    program = [*before, f"threading.Thread(target=lambda: {call}).start()"]
    with busy("\n".join(program)) as process:
        process.terminate()
        assert process.wait() == -signal.SIGTERM
    ScratchFolder("prune").close()
    assert names(temporary) == []


def test_the_signal_does_what_it_did_before(temporary: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    gfs_dist.select(*problem(), steps=2, runtime="none")
    assert signal.getsignal(signal.SIGTERM) is before
    assert names(temporary) == []


def problem() -> tuple[object, object]:
    import torch

    contributions = torch.arange(12.0).reshape(4, 3)
    return contributions, contributions.mean(1)


def test_what_lives_or_is_not_ours_stays(temporary: Path) -> None:
    kept = ScratchFolder("prune")
    (temporary / "gfs_prune_run" / "models").mkdir(parents=True)
    (temporary / "gfs_prune_run" / ".lock").touch()
    (temporary / "gfs_prune_link").symlink_to("gfs_prune_run")
    (temporary / "gfs_prune_file").touch()
    (temporary / "gfs_prune_elsewhere").mkdir()
    (temporary / "gfs_prune_elsewhere" / OWNER).write_text("process 1 on another-machine\n")
    (temporary / "gfs_prune_bytes").mkdir()
    (temporary / "gfs_prune_bytes" / OWNER).write_bytes(b"\xff\n")
    (temporary / "gfs_prune_folder" / OWNER).mkdir(parents=True)
    (temporary / "gfs_prune_pipe").mkdir()
    os.mkfifo(temporary / "gfs_prune_pipe" / OWNER)
    (temporary / "away" / "deep").mkdir(parents=True)
    dead = temporary / "gfs_prune_dead"
    dead.mkdir()
    (dead / OWNER).write_text((kept.path.parent / OWNER).read_text())
    (dead / "link").symlink_to("../away")
    before = set(names(temporary))
    ScratchFolder("prune").close()
    assert set(names(temporary)) == before - {"gfs_prune_dead"}
    assert kept.path.is_dir()
    assert (temporary / "away" / "deep").is_dir()
    kept.close()
    kept.close()


def test_another_process_may_remove_the_same_folder_first(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Second(FolderLock):
        def __init__(self, folder: Path, name: str) -> None:
            if folder.name == "gfs_prune_dead":
                shutil.rmtree(folder)
            super().__init__(folder, name)

    dead = temporary / "gfs_prune_dead"
    dead.mkdir()
    with ScratchFolder("prune") as mine:
        (dead / OWNER).write_text((mine.parent / OWNER).read_text())
    monkeypatch.setattr(scratch_folder, "FolderLock", Second)
    ScratchFolder("prune").close()
    assert names(temporary) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_cannot_be_read_stays(temporary: Path) -> None:
    closed = temporary / "gfs_private"
    closed.mkdir(mode=0)
    ScratchFolder("prune").close()
    assert names(temporary) == ["gfs_private"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_the_folder_of_another_user_stays(temporary: Path) -> None:
    other = temporary / "gfs_prune_other"
    other.mkdir()
    with ScratchFolder("prune") as mine:
        (other / OWNER).write_text((mine.parent / OWNER).read_text())
    os.chown(other, 12345, 12345)
    ScratchFolder("prune").close()
    assert names(temporary) == ["gfs_prune_other"]
