"""Local workers are forked from one process, and are as if started by this one."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist.runtime import RuntimeSpec, Tick, open_runtime

TWO = RuntimeSpec(kind="local", workers=2)


@dataclass(frozen=True)
class Surroundings:
    """What a worker finds around it."""

    def run(self, item: str, device: torch.device, tick: Tick) -> dict[str, Any]:
        return {
            "server": os.getppid(),
            "variable": os.environ.get(item),
            "folder": os.getcwd(),  # noqa: PTH109
            "path": sys.path,
        }


@dataclass(frozen=True)
class LoseServer:
    """Kills the process that this worker was forked from, once."""

    marker: str

    def run(self, item: int, device: torch.device, tick: Tick) -> int:
        if item == 1 and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        return 10 * item


def found(name: str = "PATH") -> dict[str, Any]:
    with open_runtime(TWO) as runtime:
        return dict(runtime.map(Surroundings(), [name])[0])


def test_runtimes_of_a_process_share_a_server() -> None:
    assert found()["server"] == found()["server"] != os.getpid()


def test_workers_find_what_this_process_finds_when_they_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = found("GFS_TEST_VARIABLE")
    assert first["variable"] is None
    monkeypatch.setenv("GFS_TEST_VARIABLE", "set")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    second = found("GFS_TEST_VARIABLE")
    assert second["server"] == first["server"]
    assert (second["variable"], second["folder"]) == ("set", str(tmp_path))
    assert second["path"][0] == str(tmp_path)


def test_variables_that_libraries_read_when_loaded_need_another_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = found("OMP_DYNAMIC")
    monkeypatch.setenv("OMP_DYNAMIC", "false" if first["variable"] != "false" else "true")
    assert found("OMP_DYNAMIC")["server"] != first["server"]


def test_a_lost_server_is_replaced(tmp_path: Path) -> None:
    before = found()["server"]
    with open_runtime(TWO) as runtime:
        result = runtime.map(LoseServer(str(tmp_path / "lost")), [0, 1, 2])
    assert result.values == [0, 10, 20]
    assert {fault["kind"] for fault in result.faults} == {"killed"}
    assert found()["server"] != before
