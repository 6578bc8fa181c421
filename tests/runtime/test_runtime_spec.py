from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.errors import InputError
from gfs_dist.runtime import Fault, RuntimeSpec, open_runtime
from gfs_dist.runtime import fault_injection as faults
from gfs_dist.runtime import resources as memory
from gfs_dist.runtime.backends.ray import _room_of_nodes, _sweep, join_cluster
from gfs_dist.runtime.fault_injection import FaultInjector, from_environment
from gfs_dist.runtime.graph import graph_for
from gfs_dist.runtime.messages import Identity
from gfs_dist.runtime.store import interface_of
from gfs_dist.runtime.worker_pool import place_ranks


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "mpi"}, "runtime: found 'mpi', accepted ray, local, none"),
        ({"device": "tpu"}, "device: found 'tpu', accepted auto, cpu, cuda"),
        ({"workers": 0}, "workers: found 0, accepted 1 or more"),
        ({"spares": -1}, "spares: found -1, accepted 0 or more"),
        ({"threads": 0}, "threads: found 0, accepted 1 or more"),
        ({"hang_floor_s": 0.0}, "hang_floor_s: found 0.0, accepted above 0"),
        ({"placement_timeout_s": -1.0}, "placement_timeout_s: found -1.0, accepted above 0"),
    ],
)
def test_a_spec_out_of_range_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RuntimeSpec(**keys)


def test_a_graph_that_does_not_fit_is_refused_before_workers_start() -> None:
    with pytest.raises(InputError, match="rank 2 cannot be reached"):
        open_runtime(RuntimeSpec(kind="local", workers=3, graph=[(0, 1)]))


@pytest.mark.parametrize(
    "address",
    ["somewhere", "host:", ":10", "host:65536", "host:²", "ray://host:10001", "http://host:8265"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"runtime.address: found .* accepted HOST:PORT or auto"):
        join_cluster(address)


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"runtime\.address: no Ray cluster at 127.0.0.1:9"):
        join_cluster("127.0.0.1:9")


def test_a_cluster_is_not_joined_before_its_token_mode_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)

    def greet() -> None:
        with server.accept()[0] as connection:
            connection.sendall(b"\0")

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        answer = threading.Thread(target=greet, daemon=True)
        answer.start()
        with pytest.raises(InputError, match=r"RAY_AUTH_MODE is not set; set it to token"):
            join_cluster(address)
        answer.join()


def test_room_is_counted_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 3.5, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr("gfs_dist.runtime.backends.ray.ray.nodes", lambda: nodes)
    assert _room_of_nodes({"CPU": 1.0}) == 4
    assert _room_of_nodes({"CPU": 1.0, "GPU": 1.0}) == 2


def identity(node: str, cores: int = 8, gpus: int = 0, visible: str = "") -> Identity:
    return Identity(1, node, node, cores, gpus, visible)


def test_ranks_of_a_machine_share_its_cores() -> None:
    ranks = [identity("a"), identity("b", 4), identity("a"), identity("a")]
    layout = place_ranks(RuntimeSpec(), ranks, "auto")
    assert layout.threads == [2, 4, 2, 2]
    assert layout.devices == ["cpu"] * 4
    assert layout.backend == "gloo"


def test_gpus_are_taken_if_every_rank_has_its_own() -> None:
    two = place_ranks(RuntimeSpec(), [identity("a", gpus=2)] * 2, "auto")
    assert (two.devices, two.backend) == (["cuda:0", "cuda:1"], "nccl")
    one = place_ranks(RuntimeSpec(), [identity("a", gpus=1)] * 2, "auto")
    assert (one.devices, one.backend) == (["cpu", "cpu"], "gloo")
    shared = place_ranks(RuntimeSpec(), [identity("a", gpus=1)] * 2, "cuda")
    assert (shared.devices, shared.backend) == (["cuda:0", "cuda:0"], "gloo")
    graph = place_ranks(RuntimeSpec(graph="line"), [identity("a", gpus=2)] * 2, "auto")
    assert (graph.devices, graph.backend) == (["cuda:0", "cuda:1"], "gloo")
    each = [identity("a", gpus=1, visible=gpu) for gpu in "01"]  # as Ray hands them out
    apart = place_ranks(RuntimeSpec(), each, "auto")
    assert (apart.devices, apart.backend) == (["cuda:0", "cuda:0"], "nccl")
    with pytest.raises(InputError, match="device: found 'cuda', but a has no GPU"):
        place_ranks(RuntimeSpec(), [identity("a")] * 2, "cuda")


def test_a_graph_of_given_edges_shrinks_with_the_ranks() -> None:
    spec = RuntimeSpec(workers=4, graph=[(0, 1), (1, 2), (0, 3)])
    graph = graph_for(spec, 4, None)
    assert graph is not None
    fewer = graph_for(spec, 3, graph)
    assert fewer is not None
    assert fewer.edges == [(0, 1), (1, 2)]
    spec = RuntimeSpec(workers=4, graph=[(0, 3), (1, 3), (2, 3)])
    line = graph_for(spec, 3, None)
    assert line is not None
    assert line.edges == [(0, 1), (1, 2)]


def test_faults_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GFS_FAULTS", raising=False)
    assert from_environment() == []
    monkeypatch.setenv("GFS_FAULTS", '[{"rank": 1, "step": 5}, {"rank": -1, "step": 7}]')
    assert from_environment() == [Fault(1, 5, "kill", 0), Fault(-1, 7)]


@pytest.mark.parametrize("text", ["{", "[3]", '[{"rank": 1}]', '[{"who": 1}]'])
def test_other_contents_of_that_variable_are_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("GFS_FAULTS", text)
    with pytest.raises(InputError, match=r"GFS_FAULTS: found .* accepted a JSON list of faults"):
        from_environment()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            {"rank": 0, "step": 1, "kind": "melt"},
            "found kind 'melt', accepted kill, stop, exit, cut",
        ),
        ({"rank": -2, "step": 1}, "accepted rank -1 or more, step 0 or more"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Fault(**fault)


def test_a_fault_at_a_step_that_is_left_out_strikes_at_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    struck: list[str] = []
    monkeypatch.setattr(faults, "strike", struck.append)
    announced: list[None] = []
    injector = FaultInjector([Fault(0, 3), Fault(0, 7, "exit")], lambda: announced.append(None))
    for step, known in ((2, []), (4, ["kill"]), (5, ["kill"]), (9, ["kill", "exit"])):
        injector.upon(step)
        assert struck == known
    assert len(announced) == 2


def test_the_loopback_address_belongs_to_lo() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None


def test_what_a_killed_embedded_ray_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f"gfs-ray-{gone.pid}-abc").mkdir()
    (tmp_path / f"gfs-ray-{os.getpid()}-abc").mkdir()
    (tmp_path / "gfs-ray-other-abc").mkdir()
    _sweep()
    left = sorted(folder.name for folder in tmp_path.iterdir())
    assert left == sorted([f"gfs-ray-{os.getpid()}-abc", "gfs-ray-other-abc"])


def test_files_that_were_read_are_no_memory_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    for name, text in (
        ("memory.max", "1000\n"),
        ("memory.current", "990\n"),
        ("memory.stat", "anon 90\ninactive_file 900\nactive_file 0\n"),
    ):
        (tmp_path / name).write_text(text)
    assert memory.free_memory_bytes() == 910
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory_bytes() > 2**20
