"""Which cluster is meant, and one clear line for each that cannot be used."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfs_dist import urls
from gfs_dist.cli import main
from gfs_dist.errors import ClusterError, InputError
from gfs_dist.runtime.backends import ray as ray_actors
from gfs_dist.service import http, state
from gfs_dist.service.cluster import find_cluster
from gfs_dist.service.jobs import Jobs
from gfs_dist.service.processes import Process
from gfs_dist.service.state import LocalCluster, Node


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")


def remember(dashboard: str, *, alive: bool = True) -> None:
    """As if ``gfs up`` had started it; this test is its head."""
    state.make_folder()
    state.token_file().write_text("right")
    process = Process.of(os.getpid())
    assert process is not None
    if not alive:
        process = Process(process.pid, process.began - 1, process.boot)
    state.write(LocalCluster("m", "127.0.0.1:1", dashboard, "/tmp", 1, (Node("head", process),)))


def test_without_any_cluster_the_cure_is_said() -> None:
    with pytest.raises(ClusterError, match="gfs up workers=2") as caught:
        find_cluster(None)
    assert caught.value.exit_code == 2


def test_the_address_comes_before_rays_variables_before_gfs_up(
    dashboard, token, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(dashboard.url)
    assert find_cluster(None).source == "gfs up"
    monkeypatch.setenv("RAY_ADDRESS", dashboard.url)
    assert find_cluster(None).source == "RAY_ADDRESS"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", dashboard.url + "/")
    assert find_cluster(None).source == "RAY_API_SERVER_ADDRESS"
    found = find_cluster(dashboard.url.removeprefix("http://"))
    assert (found.source, found.url) == ("runtime.address", dashboard.url)


def test_the_own_cluster_is_used_with_its_own_token(
    dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    remember(dashboard.url)
    for address in (None, "auto", "127.0.0.1:1", dashboard.url):
        found = find_cluster(address)
        assert (found.url, found.token, found.own) == (dashboard.url, "right", True)


def test_a_cluster_that_died_is_told_from_none(dashboard) -> None:
    remember(dashboard.url, alive=False)
    with pytest.raises(ClusterError, match=r"has died; clear it away with gfs down"):
        find_cluster(None)


@pytest.mark.parametrize("address", ["here", "ray://a:1", "a:b", ":1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match=r"^runtime.address: found .* accepted http://HOST:8265"):
        find_cluster(address)


def test_a_dead_address_is_noticed_at_once(token) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(ClusterError, match="no Ray cluster answers at .*refused"):
            find_cluster(url)


SILENT = r"no Ray cluster answers at http://127.0.0.1:\d+ \(no .*answer within 0.3 s\)"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``HOST:PORT`` that takes connections and never says a word."""
    monkeypatch.setattr(http, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(urls, "CONNECT_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "http://"])
@pytest.mark.parametrize(
    "words",
    [
        *(["list"], ["status", "a"], ["logs", "a"], ["stop", "a"], ["fetch", "a"], ["doctor"]),
        ["submit", "prune", "steps=1", "out=never"],
    ],
)
def test_a_silent_address_is_told_in_one_line(
    silent: str, scheme: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    doctor = words == ["doctor"]
    assert main([*words, f"runtime.address={scheme}{silent}"]) == (1 if doctor else 2)
    out, err = capsys.readouterr()
    [line] = [line for line in (out if doctor else err).splitlines() if "no Ray cluster" in line]
    assert re.search(f"runtime.address: {SILENT}", line)
    assert doctor or err == f"{line}\n"


@pytest.mark.parametrize("variable", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_a_silent_address_in_a_variable_of_rays_is_told_too(
    silent: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, silent)
    with pytest.raises(ClusterError, match=f"^{variable}: {SILENT}$"):
        find_cluster(None)


def test_a_job_is_not_begun_for_a_silent_address(
    silent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["prune", "steps=1", f"out={out}", f"runtime.address={silent}"]) == 2
    said = r"gfs: runtime.address: no Ray cluster at 127.0.0.1:\d+ \(no answer within 0.3 s\)\n"
    assert re.fullmatch(said, capsys.readouterr().err)
    assert not out.exists()


def test_ranks_join_no_silent_address(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    said = r"no Ray cluster at 127.0.0.1:\d+ \(no answer within 0.3 s\)$"
    with pytest.raises(InputError, match=said):
        ray_actors.join_cluster(silent)
    monkeypatch.setenv("RAY_ADDRESS", silent)
    with pytest.raises(InputError, match=said):
        ray_actors.join_cluster("auto")


def test_an_answer_without_end_is_not_read_to_its_end(
    dashboard, token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_BYTES", 2**20)
    jobs = Jobs(find_cluster(dashboard.url))
    dashboard.pages["/api/jobs/"] = ["x" * 2**21]
    with pytest.raises(ClusterError, match=r"more than 1 MiB, no answer of Ray's"):
        jobs.list()
    dashboard.pages["/api/version"] = ["x" * 2**21]
    with pytest.raises(ClusterError, match=r"more than 1 MiB, no answer of Ray's"):
        find_cluster(dashboard.url)


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(silent: str) -> None:
    """Each byte comes in time for a socket, the whole does not."""
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        connection = server.accept()[0]
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with contextlib.suppress(OSError):
                while not over.wait(0.05):
                    connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        with pytest.raises(http.SilentError, match="no whole answer within 0.3 s"):
            http.get_json(f"http://127.0.0.1:{server.getsockname()[1]}", None)
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("page", "content"),
    [
        ("/api/v0/nodes", {"data": {"result": {"result": ["x"]}}}),
        ("/api/v0/nodes", {"data": {"result": {"result": [{}]}}}),
        ("/api/jobs/", ["x"]),
        ("/api/jobs/", [{"submission_id": "a"}]),
        ("/api/jobs/", {"x": 1}),
    ],
)
def test_answers_that_are_not_rays_are_told_in_one_line(dashboard, token, page, content) -> None:
    dashboard.pages[page] = content
    cluster = find_cluster(dashboard.url)
    with pytest.raises(ClusterError, match=dashboard.url) as caught:
        cluster.nodes() if page.endswith("nodes") else Jobs(cluster).list()
    assert "\n" not in str(caught.value)


def test_missing_and_wrong_tokens_are_told_apart(
    dashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match="wants a token and none was found"):
        find_cluster(dashboard.url)
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN_PATH: found no file"):
        find_cluster(dashboard.url)
    file.write_text("wrong\n")
    with pytest.raises(ClusterError, match=r"refuses the token \(status 403\)"):
        find_cluster(dashboard.url)
    file.write_text("right\n")
    assert find_cluster(dashboard.url).token == "right"


def test_rays_own_token_file_is_found(dashboard, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("right")
    assert find_cluster(dashboard.url).token == "right"


def test_a_cluster_without_token_is_refused_unless_insecure(dashboard, token) -> None:
    dashboard.token = None
    with pytest.raises(ClusterError, match=r"asks for no token: whoever reaches it.*--insecure"):
        find_cluster(dashboard.url)
    assert find_cluster(dashboard.url, insecure=True).token is None
    assert set(dashboard.seen) == {None}  # it was never shown our token


def test_a_token_does_not_follow_a_redirection(dashboard, token) -> None:
    dashboard.pages["/api/version"] = "http://127.0.0.1:9/api/version"
    with pytest.raises(ClusterError, match="status 302"):
        find_cluster(dashboard.url)


@pytest.mark.parametrize(
    ("page", "content", "message"),
    [
        ("/api/version", {"ray_version": "2.1.0"}, r"runs Ray 2.1.0, here is .*pip install"),
        ("/api/version", {"x": 1}, "is no Ray dashboard"),
        ("/api/version", None, "is no Ray dashboard|refuses the token"),
        (
            "/api/v0/cluster_metadata",
            {"data": {"pythonVersion": "3.7.1"}},
            "runs Python 3.7.1, here is",
        ),
    ],
)
def test_another_ray_or_python_is_refused(dashboard, token, page, content, message) -> None:
    dashboard.pages[page] = content
    with pytest.raises(ClusterError, match=message) as caught:
        find_cluster(dashboard.url)
    assert "\n" not in str(caught.value)


def test_only_nodes_that_are_alive_count(dashboard, token, node) -> None:
    rows = [node(CPU=2.0), node("DEAD", CPU=64.0)]
    dashboard.pages["/api/v0/nodes"] = {"data": {"result": {"result": rows}}}
    assert find_cluster(dashboard.url).nodes() == rows[:1]
    dashboard.pages["/api/v0/nodes"] = {"result": False}
    with pytest.raises(ClusterError, match="no list of nodes"):
        find_cluster(dashboard.url).nodes()
