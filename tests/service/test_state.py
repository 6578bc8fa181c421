from __future__ import annotations

import stat

import pytest

from gfs_dist.errors import InputError, RunError
from gfs_dist.service import state
from gfs_dist.service.cluster import find_token
from gfs_dist.service.processes import Process
from gfs_dist.service.state import LocalCluster, Node

DEAD = Process(1, 0, "another boot")
CLUSTER = LocalCluster("m", "127.0.0.1:1", "http://x", "/tmp", 2, (Node("head", DEAD),))


def test_nothing_is_remembered_at_first() -> None:
    assert state.read() is None


def test_what_is_written_is_read() -> None:
    state.make_folder()
    state.write(CLUSTER)
    assert state.read() == CLUSTER
    assert not CLUSTER.runs
    assert CLUSTER.lost == ["head"]
    state.forget()
    assert state.read() is None


def test_the_folder_is_for_its_owner() -> None:
    assert stat.S_IMODE(state.make_folder().stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 9}', '{"format": 1, "nodes": 3}'])
def test_a_damaged_file_is_named_with_a_cure(content: str) -> None:
    file = state.make_folder() / "state.json"
    file.write_text(content)
    with pytest.raises(RunError, match=r"state.json: .* remove"):
        state.read()


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_user: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"^HOME: not set, .* for ~/.local/state; set HOME$"):
        state.read()
    with pytest.raises(InputError, match=r"^HOME: not set, .* for ~/.ray/auth_token; set HOME$"):
        find_token()
