"""``gfs up`` and ``gfs down`` with plain processes in the place of Ray's nodes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gfs_dist.errors import InputError, RunError
from gfs_dist.files.lock import FolderLock
from gfs_dist.service import local_cluster, state
from gfs_dist.service.local_cluster import NotUpError, down, up
from gfs_dist.service.processes import MARK, Process, end, marked
from gfs_dist.service.state import LocalCluster, Node

CODE = "import signal; print(flush=True); signal.pause()"


class Nodes:
    """Starts processes that wait; ``fail`` names the starts that go wrong, counted from 1."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen] = []
        self.fail: set[int] = set()
        self.words: list[list[str]] = []

    def start(
        self, cluster: LocalCluster, name: str, words: list[str], variables: dict | None = None
    ) -> LocalCluster:
        self.words.append(words)
        if len(self.words) in self.fail:
            raise NotUpError(f"{name} did not come up: no luck")
        child = subprocess.Popen(
            [sys.executable, "-c", CODE],
            env={**os.environ, MARK: cluster.mark},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert child.stdout is not None
        child.stdout.readline()
        self.children.append(child)
        process = Process.of(child.pid)
        assert process is not None
        cluster = replace(cluster, nodes=(*cluster.nodes, Node(name, process)))
        state.write(cluster)
        return cluster


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    made = Nodes()
    monkeypatch.setattr(local_cluster, "_start", made.start)
    monkeypatch.setattr(local_cluster, "_gpus", list)
    yield made
    for child in made.children:
        child.kill()
        child.wait()
        child.stdout.close()


def quiet(line: str) -> None: ...


def nothing_is_left(nodes: Nodes) -> bool:
    return all(Process.of(child.pid) is None for child in nodes.children) and state.read() is None


def test_up_starts_and_down_ends(nodes: Nodes) -> None:
    cluster = up(2, quiet)
    assert [node.name for node in cluster.nodes] == ["head", "worker 1", "worker 2"]
    assert state.read() == cluster
    assert stat.S_IMODE(state.token_file().stat().st_mode) == 0o600
    assert {"--head", "--num-cpus=0", "--dashboard-host=127.0.0.1"} <= set(nodes.words[0])
    assert nodes.words[1][0] == f"--address={cluster.address}"
    assert all("--dashboard-agent-listen-port=0" in words for words in nodes.words)
    assert down(quiet)
    assert nothing_is_left(nodes)
    assert not Path(cluster.temporary).exists()
    assert not down(quiet)


def test_up_again_shows_the_same_and_refuses_another_size(nodes: Nodes) -> None:
    said: list[str] = []
    assert up(1, quiet) == up(1, said.append)
    assert said == ["already up: a head and 1 workers"]
    with pytest.raises(InputError, match="workers: a cluster with 1 is up already; gfs down"):
        up(2, quiet)
    down(quiet)


def test_a_start_that_went_wrong_is_made_again_from_nothing(nodes: Nodes) -> None:
    nodes.fail = {2}
    said: list[str] = []
    cluster = up(1, said.append)
    assert "worker 1 did not come up: no luck; once more" in said
    assert set(marked(cluster.mark)) == {node.process for node in cluster.nodes}
    down(quiet)
    assert nothing_is_left(nodes)


def test_a_machine_that_starts_nothing_is_told_and_left_clean(nodes: Nodes) -> None:
    nodes.fail = {2, 4, 6}
    with pytest.raises(RunError, match="did not come up: no luck; is this machine very busy"):
        up(1, quiet)
    assert nothing_is_left(nodes)


def test_an_interrupted_start_leaves_nothing(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    start: Callable = nodes.start

    def interrupted(cluster: LocalCluster, name: str, *words: object) -> LocalCluster:
        if name == "worker 1":
            raise KeyboardInterrupt
        return start(cluster, name, *words)

    monkeypatch.setattr(local_cluster, "_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        up(1, quiet)
    assert nothing_is_left(nodes)


def test_what_a_dead_cluster_left_is_cleared_away_first(nodes: Nodes) -> None:
    before = up(1, quiet)
    assert end([before.nodes[0].process], 9, 10) == []
    said: list[str] = []
    after = up(1, said.append)
    assert said[0].startswith("clearing away")
    assert marked(before.mark) == []
    assert after.runs
    down(quiet)


def test_one_at_a_time(nodes: Nodes) -> None:
    lock = FolderLock(state.make_folder())
    for act in (lambda: up(1, quiet), lambda: down(quiet)):
        with pytest.raises(InputError, match="in use by process"):
            act()
    lock.release()


@pytest.mark.parametrize(("workers", "sizes"), [(1, [5]), (2, [3, 2]), (7, [1, 1, 1, 1, 1, 1, 1])])
def test_cores_are_divided(nodes: Nodes, monkeypatch, workers: int, sizes: list[int]) -> None:
    monkeypatch.setattr(local_cluster.os, "sched_getaffinity", lambda _: set(range(5)))
    up(workers, quiet)
    assert [words[1] for words in nodes.words[1:]] == [f"--num-cpus={size}" for size in sizes]
    down(quiet)
