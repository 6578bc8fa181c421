"""Hosts on one machine: network namespaces, each with its own address, joined by a bridge.

The bridge lives in a namespace too, so that nothing of the machine's own network is touched. Every
host has a name and an address that the others know, as on a network that was set up with
care; nothing else is set for Ray, Gloo or us.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

ETC = Path("/etc/netns")
NETWORK = "10.213.77"
PORT = 6379
TRIES = 3
NAMED = 'hostname "$0" && exec "$@"'
HEALTH_MS = 1000
"""So that Ray takes a silent host for dead after seconds instead of a minute."""


def available() -> str | None:
    """None, or why there can be no namespaces here."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if shutil.which("ip") is None:
        return "no command ip (Debian: iproute2)"
    probe = f"gfs-{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "network namespaces cannot be made here"
    _ip("netns", "del", probe)
    return None


def wait_for(what: str, found: Callable[[], object], limit_s: float = 120.0) -> None:
    """Return once ``found()`` is true; fails with ``what`` after the limit."""
    deadline = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < deadline, f"{what}: not within {limit_s:g} s"
        time.sleep(0.05)  # files and processes of others: there is no event to wait for


class Hosts:
    """``count`` hosts and a Ray cluster over them: host 0 is the head and has no CPU to lend.

    Args:
        folder: for logs, the token and Ray's own files. All hosts see it, as a shared disk.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self.names = [f"gfs{os.getpid()}h{i}" for i in range(count)]
        self.bridge = f"gfs{os.getpid()}br"
        self.folder = folder
        self.raylets: dict[int, subprocess.Popen[str]] = {}
        self._token = folder / "token"
        self._started: list[subprocess.Popen[str]] = []
        self._broken: set[int] = set()

    def __enter__(self) -> Self:
        self._token.touch(mode=0o600)
        self._token.write_text(secrets.token_hex(32))
        try:
            self._wire()
            for host in range(len(self.names)):
                self.start_ray(host)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address(self, host: int) -> str:
        """Its IP address."""
        return f"{NETWORK}.{host + 1}"

    def start_ray(self, host: int) -> None:
        """Start its head or raylet; hosts that share a folder are started one after another."""
        own = f"--node-ip-address={self.address(host)}"
        role = (
            ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]
            if host == 0
            else [f"--address={self.address(0)}:{PORT}", "--num-cpus=1"]
        )
        room = "--object-store-memory=100000000"
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", own, room, *role]
        ray.append(f"--temp-dir={self.folder / 'ray'}")
        before, tries = len(self._ready(host)), 0
        while len(self._ready(host)) == before:  # on a busy machine Ray may give up on itself
            tries += 1
            assert tries <= TRIES, f"Ray on host {host} ends at once, see {self.folder}"
            if tries > 1:
                self._empty(host)
            with (self.folder / f"ray_{host}.log").open("a") as log:
                process = self.popen(host, ray, stdout=log, stderr=subprocess.STDOUT)
            self.raylets[host] = process
            wait_for(
                f"Ray on host {host}",
                lambda: len(self._ready(host)) > before or process.poll() is not None,  # noqa: B023
            )

    def end_ray(self, host: int) -> None:
        """Kill all processes of its Ray, workers included."""
        self._broken.add(host)
        process = self.raylets[host]
        for pid in [process.pid, *_descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):  # gone with its parent
                os.kill(pid, signal.SIGKILL)
        process.wait(60)

    def kill_raylet(self, host: int) -> None:
        """Kill the one process that speaks for the host."""
        self._broken.add(host)
        found = _descendants(self.raylets[host].pid)
        [raylet] = [pid for pid in found if _name(pid) == "raylet"]
        os.kill(raylet, signal.SIGKILL)

    def heal(self) -> None:
        """Start anew what was disturbed, if anything was; without a head, everything."""
        hosts = sorted(self._broken if 0 not in self._broken else range(len(self.names)))
        for host in hosts:
            self.join_again(host)
            self._empty(host)
        for host in hosts:
            self.start_ray(host)
        self._broken.clear()

    def popen(self, host: int, command: Sequence[str], **options: object) -> subprocess.Popen[str]:
        """A process on a host, in a group of its own."""
        name = self.names[host]
        words = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", NAMED, name, *command]
        process = subprocess.Popen(
            words,
            env=self.environment(),
            text=True,
            start_new_session=True,
            **options,  # type: ignore[call-overload]
        )
        self._started.append(process)
        return process

    def environment(self) -> dict[str, str]:
        """Of all processes: a token, no waiting of a minute, and no interface named."""
        health = {
            "initial_delay_ms": HEALTH_MS,
            "period_ms": HEALTH_MS,
            "timeout_ms": HEALTH_MS,
            "failure_threshold": 3,
        }
        ours = {f"RAY_health_check_{key}": str(value) for key, value in health.items()}
        ours |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        unset = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "RAY_ADDRESS", "GFS_FAULTS")
        return {key: value for key, value in os.environ.items() if key not in unset} | ours

    def cut_off(self, host: int) -> None:
        """Take its link down: packets are lost without notice."""
        self._broken.add(host)
        _ip("-n", self.bridge, "link", "set", f"port{host}", "down")

    def join_again(self, host: int) -> None:
        """Bring its link up."""
        _ip("-n", self.bridge, "link", "set", f"port{host}", "up")

    def close(self) -> None:
        """End every process that was started here, then the hosts."""
        for host in range(len(self.names)):
            self._empty(host)
        for process in self._started:
            process.wait(30)
        for name in (*self.names, self.bridge):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(ETC / name, ignore_errors=True)

    def pids(self) -> list[int]:
        """Processes that live on any host."""
        return [pid for name in self.names for pid in _pids(name)]

    def _wire(self) -> None:
        _ip("netns", "add", self.bridge)
        _ip("-n", self.bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.bridge, "link", "set", "br0", "up")
        known = "".join(f"{self.address(i)} {name}\n" for i, name in enumerate(self.names))
        for host, name in enumerate(self.names):
            _ip("netns", "add", name)
            # Ray and torch look names up: without these each look-up takes seconds to fail.
            etc = ETC / name
            etc.mkdir(parents=True, exist_ok=True)
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
            (etc / "resolv.conf").write_text("options timeout:1 attempts:1\n")
            pair = ("type", "veth", "peer", "name", f"port{host}", "netns", self.bridge)
            _ip("-n", name, "link", "add", "net0", *pair)
            _ip("-n", self.bridge, "link", "set", f"port{host}", "master", "br0", "up")
            _ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "net0")
            for device in ("lo", "net0"):
                _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "route", "add", "default", "via", f"{NETWORK}.254")

    def _empty(self, host: int) -> None:
        name = self.names[host]
        for pid in _pids(name):
            with contextlib.suppress(ProcessLookupError):  # gone with its parent
                os.kill(pid, signal.SIGKILL)
        wait_for(f"processes of {name} to go", lambda: not _pids(name), 30)

    def _ready(self, host: int) -> list[str]:
        log = self.folder / f"ray_{host}.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if "Ray runtime started" in line]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)


def _pids(name: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def _descendants(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(word) for word in listed.read_text().split()] if listed.exists() else []
    return [*children, *(found for child in children for found in _descendants(child))]


def _name(pid: int) -> str:
    file = Path(f"/proc/{pid}/comm")
    return file.read_text().strip() if file.exists() else ""
