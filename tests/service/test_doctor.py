"""What the doctor says of things that are wrong, and what would mend them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gfs_dist.service import doctor, state
from gfs_dist.service.doctor import Check
from gfs_dist.service.processes import Process
from gfs_dist.service.state import LocalCluster, Node


def look(out: Path, address: str | None = None) -> dict[str, Check]:
    return {check.name: check for check in doctor.examine(out, address, insecure=False)}


def test_every_check_has_a_line_and_every_fault_a_cure(tmp_path: Path) -> None:
    checks = look(tmp_path)
    assert {"packages", "token files", "ports", "shared memory", "memory", "gpus"} <= set(checks)
    for check in checks.values():
        assert check.state in ("ok", "warn", "fail")
        assert "\n" not in check.found
        assert check.state == "ok" or check.cure, check


def test_unsafe_loading_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert look(tmp_path)["pickles"].state == "fail"


def test_a_token_that_others_can_read_fails(tmp_path: Path) -> None:
    state.make_folder()
    state.token_file().write_text("x")
    state.token_file().chmod(0o600)
    assert look(tmp_path)["token files"] == Check("token files", "ok", "1 found")
    state.token_file().chmod(0o644)
    found = look(tmp_path)["token files"]
    assert (found.state, found.cure) == ("fail", f"chmod 600 {state.token_file()}")


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert look(tmp_path / "runs")["run folders"].state == "fail"


def test_little_room_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"total": 10 * doctor.GIB, "free": doctor.GIB // 8})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    checks = look(tmp_path)
    for name in ("shared memory", "disk of run folders", "disk of temporary files"):
        assert checks[name].state == "fail"


def test_an_interface_that_is_none_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    assert look(tmp_path)["network"].state == "fail"


def test_what_a_dead_cluster_left_is_seen(tmp_path: Path) -> None:
    me = Process.of(os.getpid())
    assert me is not None
    dead = Process(me.pid, me.began - 1, me.boot)
    state.make_folder()
    remains = LocalCluster("m", "127.0.0.1:1", "http://127.0.0.1:9", "/tmp", 1)
    state.write(LocalCluster(**{**vars(remains), "nodes": (Node("head", dead),)}))
    assert look(tmp_path)["gfs up"].cure == "gfs down clears it away"
    nodes = (Node("head", me), Node("worker 1", dead))
    state.write(LocalCluster(**{**vars(remains), "nodes": nodes}))
    assert look(tmp_path)["gfs up"] == Check(
        "gfs up", "fail", "worker 1 ended", "gfs down, then gfs up again"
    )
    (state.folder() / "state.json").write_text("{")
    assert look(tmp_path)["gfs up"].state == "fail"


def test_a_cluster_is_asked(
    dashboard, node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look(tmp_path)["cluster"].found == "none named"
    assert look(tmp_path, dashboard.url)["cluster"].state == "fail"  # no token
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    checks = look(tmp_path, dashboard.url)
    assert (checks["cluster"].state, checks["nodes"].state) == ("ok", "fail")  # no nodes
    dashboard.pages["/api/v0/nodes"] = {"data": {"result": {"result": [node(CPU=2.0)]}}}
    assert look(tmp_path, dashboard.url)["nodes"].state == "ok"
