"""Checks of a machine and of a cluster before a job runs. Nothing is changed."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import psutil

from gfs_dist._environment import UNSAFE_ENVIRONMENT, is_unsafe
from gfs_dist.errors import GfsError, RunError
from gfs_dist.service import state
from gfs_dist.service.capacity import Capacity
from gfs_dist.service.cluster import VARIABLES, find_cluster
from gfs_dist.service.local_cluster import DASHBOARD_PORT, GCS_PORT, HOST, OBJECT_STORE_BYTES
from gfs_dist.urls import in_home

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 2**30
RAY_FULL_SHARE = 0.95
"""Ray writes nothing more to a disk that is fuller."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: ``ok``, ``warn`` or ``fail``, what was found, what to do."""

    name: str
    state: str
    found: str
    cure: str = ""


def _check(name: str, found: str, fault: bool, severity: str, cure: str) -> Check:
    return Check(name, severity, found, cure) if fault else Check(name, OK, found)


def examine(out: Path, address: str | None, *, insecure: bool) -> list[Check]:
    """All checks, in order.

    Args:
        out: folder that runs are to be written to.
        address, insecure: as :func:`gfs_dist.service.cluster.find_cluster`.
    """
    return [
        Check("python", OK, platform.python_version()),  # an older one does not come this far
        _packages(),
        _pickles(),
        _tokens(),
        _ports(),
        _shared_memory(),
        _disk("disk of temporary files", Path(tempfile.gettempdir())),
        _disk("disk of run folders", _existing(out)),
        _writable(out),
        _memory(),
        _gpus(),
        _interfaces(),
        _left_over(),
        *_cluster(address, insecure),
    ]


def _packages() -> Check:
    """Those that must be of the same version on all machines, and what Ray's jobs need."""
    versions = {}
    for name in ("torch", "ray", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            return Check("packages", FAIL, f"no {name}", "pip install gfs-dist")
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if util.find_spec("aiohttp") is None:
        return Check("packages", FAIL, f"{found} without [default]", "pip install 'ray[default]'")
    return Check("packages", OK, found)


def _pickles() -> Check:
    if is_unsafe():
        return Check("pickles", FAIL, f"{UNSAFE_ENVIRONMENT} is set", f"unset {UNSAFE_ENVIRONMENT}")
    return Check("pickles", OK, "weights only")


def _tokens() -> Check:
    """Files of tokens, which are for their owner alone."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    places = [state.token_file(), in_home("~/.ray/auth_token")]
    files = [file for file in (*places, *([Path(named)] if named else [])) if file.is_file()]
    for file in files:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            cure = f"chmod 600 {shlex.quote(str(file))}"
            return Check("token files", FAIL, f"{file} has mode {mode:04o}", cure)
    return Check("token files", OK, f"{len(files)} found" if files else "none")


def _ports() -> Check:
    taken = []
    for port in (GCS_PORT, DASHBOARD_PORT):
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((HOST, port)) == 0:
                taken.append(port)
    if not taken:
        return Check("ports", OK, f"{GCS_PORT} and {DASHBOARD_PORT} are free")
    own = _own_cluster()
    used = [own.address, own.dashboard] if own is not None and own.runs else []
    others = [port for port in taken if not any(name.endswith(f":{port}") for name in used)]
    if others:
        words = " and ".join(map(str, others))
        return Check("ports", WARN, f"{words} taken", "none needed: gfs up takes others")
    return Check("ports", OK, "used by the cluster of gfs up")


def _shared_memory() -> Check:
    """Each Ray node keeps its objects there; without room it falls back to a slow disk."""
    usage = shutil.disk_usage("/dev/shm")  # noqa: S108 - that is where it is
    cure = "make it larger: docker --shm-size=2g, in Kubernetes an emptyDir of medium Memory"
    found = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    return _check("shared memory", found, usage.free < 2 * OBJECT_STORE_BYTES, FAIL, cure)


def _disk(name: str, folder: Path) -> Check:
    usage = shutil.disk_usage(folder)
    used = 1 - usage.free / usage.total
    found = f"{folder}: {usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    if usage.free < GIB:
        return Check(name, FAIL, found, "make room: runs and Ray's logs need at least 1 GiB")
    if used > RAY_FULL_SHARE:
        found = f"{found}, {used:.0%} used"
    return _check(name, found, used > RAY_FULL_SHARE, WARN, "Ray stops writing at 95 %: make room")


def _writable(out: Path) -> Check:
    folder = _existing(out)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("run folders", OK, f"{folder} can be written")
    except OSError as error:
        cure = "choose another with out=DIR, or change its owner"
        return Check("run folders", FAIL, f"{folder}: {error.strerror}", cure)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _memory() -> Check:
    free = psutil.virtual_memory().available
    cure = "Ray takes 1 to 2 GiB, a rank 0.3 and more: free some"
    return _check("memory", f"{free / GIB:.1f} GiB available", free < 2 * GIB, WARN, cure)


def _gpus() -> Check:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        names = {torch.cuda.get_device_name(number) for number in range(count)}
        return Check("gpus", OK, f"{count}: {', '.join(sorted(names))}")
    if not Path("/dev/nvidiactl").exists():
        return Check("gpus", OK, "none")
    if torch.version.cuda is None:
        cure = "install torch with CUDA, see PyTorch's install page"
        return Check("gpus", FAIL, f"there are some, torch {torch.__version__} has no CUDA", cure)
    cure = "run nvidia-smi; look at CUDA_VISIBLE_DEVICES and the driver's version"
    return Check("gpus", FAIL, "there are some, torch sees none", cure)


def _interfaces() -> Check:
    """Ranks on several machines talk over an interface that others can reach."""
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    chosen = os.environ.get("GLOO_SOCKET_IFNAME")
    if chosen and chosen not in (*names, "lo"):
        found = f"GLOO_SOCKET_IFNAME={chosen}, there are {', '.join(names) or 'none'}"
        return Check("network", FAIL, found, "unset GLOO_SOCKET_IFNAME: it is found by itself")
    found = ", ".join(names) or "only loopback"
    return _check("network", found, not names, WARN, "ranks on this machine alone can talk")


def _own_cluster() -> state.LocalCluster | None:
    """The cluster of ``gfs up``; faults of its file are reported by :func:`_left_over`."""
    try:
        return state.read()
    except RunError:
        return None


def _left_over() -> Check:
    try:
        own = state.read()
    except GfsError as error:
        return Check("gfs up", FAIL, str(error), "see there")
    if own is None:
        return Check("gfs up", OK, "no cluster started")
    if not own.runs:
        return Check("gfs up", WARN, "its cluster has died", "gfs down clears it away")
    if own.lost:
        cure = "gfs down, then gfs up again"
        return Check("gfs up", FAIL, f"{', '.join(own.lost)} ended", cure)
    return Check("gfs up", OK, f"a head and {own.workers} workers")


def _cluster(address: str | None, insecure: bool) -> Iterator[Check]:
    """Checks from outside of the cluster that is named or started."""
    named = address or any(os.environ.get(name) for name in VARIABLES)
    own = _own_cluster()
    if not named and (own is None or not own.runs):
        yield Check("cluster", OK, "none named")
        return
    try:
        cluster = find_cluster(address, insecure=insecure)
        if cluster.token is None:
            cure = "start it with RAY_AUTH_MODE=token"
            yield Check("cluster", WARN, f"{cluster.url} asks for no token", cure)
        else:
            yield Check("cluster", OK, f"{cluster.url} answers and asks for a token")
        nodes = cluster.nodes()
    except GfsError as error:
        yield Check("cluster", FAIL, str(error), "see there")
        return
    capacity = Capacity.of(nodes)
    found, no_room = f"{len(nodes)} alive, {capacity}", sum(capacity.cpus) < 1
    yield _check("nodes", found, no_room, FAIL, "start workers: no rank finds a place")
