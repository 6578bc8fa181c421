"""``out=URL`` and ``resume=URL`` from the outside: the same runs, wherever their folder lies."""

from __future__ import annotations

import errno
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from gfs_dist.cli import main
from gfs_dist.config.compose import compose, compose_file, to_yaml
from gfs_dist.errors import ConfigError
from gfs_dist.files import RunFolder, remote
from gfs_dist.files.mirror import kept_files
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.workflows.run_report import _Sees, check_reach
from tests.jobs.deep_runs import MODEL, TRAIN, elsewhere, prune, report, write_factory
from tests.jobs.test_prune_command import ALONE, SMALL, hashes

KILLED = """
import os, sys
from gfs_dist.cli import main
from gfs_dist.files import mirror
from gfs_dist.files.remote import Remote

def at_once(self):  # uploads follow what the job writes, so that they can be counted
    self._report = mirror._stamp(self._folder / mirror.REPORT)
    self._copy()

def dying(send):
    def send_and_die(self, name, what):
        send(self, name, what)
        if name == sys.argv[1]:
            os.kill(os.getpid(), 9)
    return send_and_die

mirror.Mirror.wake = at_once
Remote.put, Remote.write = dying(Remote.put), dying(Remote.write)
main(sys.argv[2:])
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in a path."""
    out = tmp_path_factory.mktemp("prune") / "run"
    prune(out, *ALONE)
    return out


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def assert_same(out: Path, undisturbed: Path, state: Path) -> None:
    """All that the other run has lies there, with its picks, and no copy here."""
    assert report(out)["status"] == "finished"
    assert hashes(report(out)) == hashes(report(undisturbed))
    assert set(kept_files(undisturbed)) <= set(kept_files(out))
    assert list(state.glob("gfs/runs/*")) == []


def test_a_run_at_a_url_is_that_of_a_path(
    undisturbed: Path, tmp_path: Path, state: Path, capsys: Any
) -> None:
    out, url = tmp_path / "run", f"file://{tmp_path}/run"
    assert main(["prune", f"out={url}", *SMALL, "runtime=local", "workers=2", "--json"]) == 0
    told = capsys.readouterr()
    said = json.loads(told.out)
    assert (said["run_folder"], said["report"]) == (url, f"{url}/report.json")
    assert f"run folder: {url}" in told.err
    assert str(state) not in told.err
    assert f"out: {url}" in (out / "config.yaml").read_text()
    assert_same(out, undisturbed, state)
    assert main(["prune", f"out={url}", *ALONE]) == 2
    assert "exists and is not empty (checkpoints); choose another" in capsys.readouterr().err
    assert_same(out, undisturbed, state)


@pytest.mark.parametrize(
    "last",
    [
        "checkpoints/step_00000010/model.safetensors",  # tensors without their facts
        "paths/step_00000010.partial.json",
        "models/step_00000010/model.safetensors",
        "report.json",
    ],
)
def test_killed_at_any_upload_it_goes_on_from_what_lies_there(
    undisturbed: Path, tmp_path: Path, state: Path, last: str
) -> None:
    out, url = tmp_path / "run", f"file://{tmp_path}/run"
    command = [sys.executable, "-c", KILLED, last, "prune", f"out={url}", *ALONE]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out / last).exists()
    assert main(["prune", f"resume={url}"]) == 0
    assert_same(out, undisturbed, state)


def test_a_driver_killed_in_mid_search_goes_on_elsewhere_with_its_picks(
    undisturbed: Path, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, url = tmp_path / "run", f"file://{tmp_path}/run"
    words = [*SMALL, "runtime=local", "workers=2"]
    killed = elsewhere("prune", f"out={url}", *words, faults=[{"rank": -1, "step": 1}])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "report.json").exists()
    assert list(state.glob("gfs/runs/*"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))  # as on another machine
    assert main(["prune", f"resume={url}", "runtime=none"]) == 0
    assert_same(out, undisturbed, tmp_path / "elsewhere")


def test_training_by_ranks_keeps_its_checkpoints_there(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_factory(tmp_path)
    words = [*MODEL, *TRAIN, "runtime=local", "workers=2", f"out=file://{tmp_path}/run"]
    assert main(["pretrain", *words]) == 0
    found = [iteration for iteration, _ in RunFolder(tmp_path / "run").checkpoints()]
    assert found == [0, 10, 20, 25]
    assert report(tmp_path / "run")["status"] == "finished"
    assert list(state.glob("gfs/runs/*")) == []


class Unreachable(fsspec.AbstractFileSystem):
    """Storage behind a broken network."""

    protocol = "down"

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        raise OSError(errno.EHOSTUNREACH, "No route to host")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("zz://a/b", "Protocol not known: zz"),
        ("down://a/b", "No route to host"),
    ],
)
@pytest.mark.parametrize("key", ["out", "resume"])
def test_storage_that_is_not_there_is_named_before_anything_is_written(
    key: str, url: str, words: str, state: Path, capsys: Any
) -> None:
    fsspec.register_implementation("down", Unreachable, clobber=True)
    assert main(["prune", f"{key}={url}", *(ALONE if key == "out" else [])]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"gfs: {key}: ")
    assert url in said
    assert words in said
    assert len(said.splitlines()) == 1
    assert not state.exists()


def test_storage_that_fails_in_the_middle_fails_the_job_which_goes_on_later(
    memory: Any, state: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    url, put = "memory://bucket/run", type(memory).put_file

    def put_file(self: Any, here: str, there: str) -> None:
        if "models" in there:
            raise OSError(errno.ENOSPC, "quota")
        put(self, here, there)

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "put_file", put_file)
        assert main(["prune", f"out={url}", *ALONE]) == 1
    said = capsys.readouterr().err
    assert f"out: {url} cannot be written: [Errno 28] quota" in said
    (copy,) = state.glob("gfs/runs/*")
    assert str(copy) in said
    assert main(["prune", f"resume={url}"]) == 0
    found = json.loads(memory.cat("/bucket/run/report.json"))
    assert hashes(found) == hashes(report(undisturbed))


def test_a_driver_of_a_cluster_goes_on_where_the_url_has_begun(memory: Any, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(compose("prune", ["out=memory://bucket/run", "steps=3"])))
    assert compose_file("prune", file).resume is None
    memory.pipe("/bucket/run/config.yaml", file.read_bytes())
    assert compose_file("prune", file).resume == "memory://bucket/run"
    memory.pipe("/bucket/run/config.yaml", file.read_bytes().replace(b"steps: 3", b"steps: 4"))
    with pytest.raises(ConfigError, match="steps: found 3, the run folder has 4"):
        compose_file("prune", file)


@pytest.mark.parametrize("key", ["out", "resume"])
@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_a_url_that_takes_connections_and_says_nothing_is_told(
    scheme: str, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/run"
        assert main(["prune", f"{key}={url}"]) == 2
    said = f"gfs: {key}: {url} cannot be reached: no answer within 0.3 s\n"
    assert capsys.readouterr().err == said


def test_a_configuration_that_is_none_is_refused_by_its_url(memory: Any) -> None:
    memory.pipe("/bucket/run/config.yaml", b"a: [")
    with pytest.raises(ConfigError, match="^resume: memory://bucket/run/config.yaml cannot be"):
        compose("prune", ["resume=memory://bucket/run"])


def test_ranks_that_do_not_see_the_copy_are_refused(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RuntimeSpec(kind="local", workers=2, threads=1, device="cpu")
    with RunFolder.create("memory://bucket/run", "") as folder, open_runtime(spec) as runtime:
        check_reach(folder, runtime)
        assert not runtime.run_group(_Sees(str(folder.path / ".lock"), "another")).value
    monkeypatch.setattr(_Sees, "run", lambda *_: False)
    with RunFolder.create("memory://bucket/other", "") as folder:
        alone = RuntimeSpec(kind="none", workers=1)
        with (
            open_runtime(alone) as runtime,
            pytest.raises(ConfigError, match=r"^out: found memory://bucket/other with ranks"),
        ):
            check_reach(folder, runtime)


def test_one_rank_that_sees_another_text_is_enough(tmp_path: Path) -> None:
    class Half:
        rank, num_ranks = 0, 2

        def average(self, tensors: Any) -> None:
            tensors[0].div_(2)  # the other one has none

    file = tmp_path / "lock"
    file.write_text("x")
    peers: Any = Half()
    assert not _Sees(str(file), "x").run(peers, torch.device("cpu"), lambda *_: None)
