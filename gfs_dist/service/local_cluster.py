"""A real Ray cluster on this machine: a head and workers, each a Ray node of its own.

Nodes are child processes in sessions of their own that outlive this one. The head holds drivers
and no ranks (it offers no CPUs); cores and GPUs are divided among the workers.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gfs_dist
from gfs_dist.errors import InputError, RunError
from gfs_dist.files.lock import FolderLock
from gfs_dist.service import http, state
from gfs_dist.service.processes import MARK, Process, end, end_marked, marked
from gfs_dist.service.state import LocalCluster, Node

HOST = "127.0.0.1"
GCS_PORT, DASHBOARD_PORT, CLIENT_PORT = 6379, 8265, 10001
ANY_AGENT_PORT = "--dashboard-agent-listen-port=0"
"""Ray's own is the same for all: where another Ray runs the head's agent, which starts jobs, would
end at once, and jobs be refused."""

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
OBJECT_STORE_BYTES = 256 * 2**20
QUEUE_LIMIT_S = 30 * 24 * 3600
FOLDER = "gfs-up-"

ATTEMPTS = 3
"""Ray gives its own processes 30 s: too few on a very busy machine."""

Say = Callable[[str], None]


class NotUpError(Exception):
    """A node ended, or took too long, before the cluster counted it."""


def up(workers: int, say: Say) -> LocalCluster:
    """Start a head and ``workers`` worker nodes; returns when all of them are alive.

    Ranks share what the workers offer: all cores and GPUs of this machine, divided evenly.

    Raises:
        InputError: a cluster of another size runs already, or is about to.
        RunError: a node did not come up; all that was started is ended.
    """
    with _locked():
        before = state.read()
        if before is not None and before.runs and not before.lost:
            if before.workers == workers:
                say(f"already up: a head and {workers} workers")
                return before
            raise InputError(
                f"workers: a cluster with {before.workers} is up already; gfs down ends it"
            )
        if before is not None:
            say("clearing away what a cluster that died has left")
            _clear(before)
        return _started(workers, say)


def _started(workers: int, say: Say) -> LocalCluster:
    """A new cluster; a start that fails is repeated from nothing."""
    for attempt in range(1, ATTEMPTS + 1):
        cluster = _prepare(workers)
        try:
            return _start_all(cluster, say)
        except BaseException as error:
            _clear(state.read() or cluster)
            if not isinstance(error, NotUpError):
                raise
            reason = str(error)
        if attempt < ATTEMPTS:
            say(f"{reason}; once more")
    raise RunError(f"{reason}; is this machine very busy? gfs doctor looks at it")


def _start_all(cluster: LocalCluster, say: Say) -> LocalCluster:
    """Start all nodes; ``cluster`` with them.

    Raises:
        NotUpError: one does not come up, or one that was up has ended.
    """
    cluster = _start(cluster, "head", _head(cluster))
    say(f"head is up: {cluster.address}, dashboard {cluster.dashboard}")
    cores, gpus = sorted(os.sched_getaffinity(0)), _gpus()
    for number in range(cluster.workers):
        # One after the other: nodes that share Ray's folder disturb each other's start.
        cluster = _start(
            cluster,
            f"worker {number + 1}",
            [
                f"--address={cluster.address}",
                f"--num-cpus={len(cores[number :: cluster.workers]) or 1}",
                ANY_AGENT_PORT,
            ],
            {"CUDA_VISIBLE_DEVICES": ",".join(gpus[number :: cluster.workers])},
        )
        say(f"worker {number + 1} of {cluster.workers} is up")
    return cluster


def down(say: Say) -> bool:
    """End the cluster that :func:`up` started and all its processes; False if there is none."""
    with _locked():
        cluster = state.read()
        if cluster is None:
            return False
        strays = _clear(cluster)
    if strays:
        say(f"killed what outlived its node: {strays} of its processes")
    return True


@contextmanager
def _locked() -> Iterator[None]:
    """No other process starts or ends a cluster meanwhile."""
    lock = FolderLock(state.make_folder())
    try:
        yield
    finally:
        lock.release()


def _prepare(workers: int) -> LocalCluster:
    """Token, ports and folder of a cluster that does not run yet; recorded."""
    token = state.make_folder() / "token"
    token.unlink(missing_ok=True)
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    cluster = LocalCluster(
        mark=secrets.token_hex(8),
        address=f"{HOST}:{_free_port(GCS_PORT)}",
        dashboard=f"http://{HOST}:{_free_port(DASHBOARD_PORT)}",
        temporary=tempfile.mkdtemp(prefix=FOLDER),  # short: sockets lie below it
        workers=workers,
    )
    state.write(cluster)
    return cluster


def _head(cluster: LocalCluster) -> list[str]:
    return [
        "--head",
        f"--port={cluster.address.rpartition(':')[2]}",
        "--num-cpus=0",
        "--num-gpus=0",
        f"--dashboard-host={HOST}",
        f"--dashboard-port={cluster.dashboard.rpartition(':')[2]}",
        f"--temp-dir={cluster.temporary}",
        f"--ray-client-server-port={_free_port(CLIENT_PORT)}",  # it cannot be turned off
        ANY_AGENT_PORT,
    ]


def _start(
    cluster: LocalCluster, name: str, words: list[str], variables: dict[str, str] | None = None
) -> LocalCluster:
    """Start one node and wait until the cluster counts it; ``cluster`` with it.

    Raises:
        NotUpError: it, or one before it, ended, or it took too long.
    """
    log = _log(cluster, name)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        *words,
    ]
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(  # noqa: S603 - our own words
            command,
            cwd=cluster.temporary,
            env={**_environment(cluster), **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = Process.of(child.pid)
    if process is not None:
        cluster = replace(cluster, nodes=(*cluster.nodes, Node(name, process)))
        state.write(cluster)
    deadline = time.monotonic() + START_TIMEOUT_S
    while _alive(cluster) < len(cluster.nodes):
        if child.poll() is not None or time.monotonic() > deadline:
            raise NotUpError(f"{name} did not come up: {_reason(log)}")
        if lost := cluster.lost:
            raise NotUpError(f"{lost[0]} has ended: {_reason(_log(cluster, lost[0]))}")
        time.sleep(0.2)  # Ray has no event for a node that is ready
    return cluster


def _environment(cluster: LocalCluster) -> dict[str, str]:
    """This process's environment with what a node needs, without settings of other clusters."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    package = str(Path(gfs_dist.__file__).resolve().parent.parent)
    paths = [path for path in (package, os.environ.get("PYTHONPATH")) if path]
    return {
        **kept,
        MARK: cluster.mark,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(paths),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(state.token_file()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_gcs_rpc_server_connect_timeout_s": "60",  # 5 is too little for a machine at its limit
        "RAY_JOB_START_TIMEOUT_SECONDS": str(QUEUE_LIMIT_S),  # a job may wait for its turn
    }


def _alive(cluster: LocalCluster) -> int:
    try:
        rows = http.nodes(cluster.dashboard, state.read_token())
    except http.RequestError:  # it is not up yet
        return 0
    return sum(row["state"] == "ALIVE" for row in rows)


def _clear(cluster: LocalCluster) -> int:
    """End every process of ``cluster`` and remove its files; how many outlived their nodes."""
    workers = [node.process for node in cluster.nodes[1:]]
    head = [node.process for node in cluster.nodes[:1]]
    for processes in (workers, head):
        end(end(processes, signal.SIGTERM, STOP_TIMEOUT_S), signal.SIGKILL, STOP_TIMEOUT_S)
    strays = end_marked(cluster.mark)
    if left := marked(cluster.mark):
        raise RunError(f"processes {[process.pid for process in left]} cannot be ended")
    shutil.rmtree(cluster.temporary, ignore_errors=True)
    state.forget()
    return strays


def _log(cluster: LocalCluster, name: str) -> Path:
    return Path(cluster.temporary) / f"{name.replace(' ', '_')}.log"


def _reason(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def _free_port(wanted: int) -> int:
    """``wanted`` if it is free, else any port that is."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RunError(f"no free port on {HOST}")


def _gpus() -> list[str]:
    import torch

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return chosen.split(",")[:count] if chosen else [str(number) for number in range(count)]
