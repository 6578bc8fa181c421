"""The cluster that ``gfs up`` started, recorded until ``gfs down``.

``$XDG_STATE_HOME/gfs/cluster`` (``~/.local/state/gfs/cluster``), readable by its owner alone:
``state.json``, written before the first process starts and with each one; ``token``.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gfs_dist.errors import RunError
from gfs_dist.files import atomic
from gfs_dist.files.untrusted import load_json
from gfs_dist.service.processes import Process
from gfs_dist.urls import in_home

FORMAT = 1


@dataclass(frozen=True)
class Node:
    """One Ray node: ``head``, ``worker 1``, ..., and the process that holds it."""

    name: str
    process: Process


@dataclass(frozen=True)
class LocalCluster:
    """A cluster on this machine.

    Attributes:
        mark: carried by the environment of all its processes.
        address: ``HOST:PORT`` that drivers and workers join.
        dashboard: ``http://HOST:PORT`` that takes jobs.
        temporary: Ray's folder (sessions, logs).
        workers: how many were asked for.
        nodes: those that were started, the head first.
    """

    mark: str
    address: str
    dashboard: str
    temporary: str
    workers: int
    nodes: tuple[Node, ...] = ()

    @property
    def runs(self) -> bool:
        """True while its head does."""
        return bool(self.nodes) and self.nodes[0].process.runs

    @property
    def lost(self) -> list[str]:
        return [node.name for node in self.nodes if not node.process.runs]


def folder() -> Path:
    """Where state and token are."""
    home = os.environ.get("XDG_STATE_HOME") or in_home("~/.local/state")
    return Path(home) / "gfs" / "cluster"


def token_file() -> Path:
    """The token of the cluster that ``gfs up`` started."""
    return folder() / "token"


def read_token() -> str:
    """The token of the cluster that ``gfs up`` started.

    Raises:
        RunError: it is gone.
    """
    try:
        return token_file().read_text(encoding="ascii").strip()
    except OSError as error:
        cure = "gfs down, then gfs up again"
        raise RunError(f"{token_file()}: the token cannot be read ({error}); {cure}") from error


def make_folder() -> Path:
    """The folder, made for its owner alone."""
    made = folder()
    with atomic.storage_errors(made):
        made.mkdir(parents=True, exist_ok=True, mode=0o700)
        made.chmod(0o700)
    return made


def write(cluster: LocalCluster) -> None:
    """Record ``cluster``."""
    atomic.write_json(folder() / "state.json", {"format": FORMAT, **asdict(cluster)})


def read() -> LocalCluster | None:
    """The cluster that was started last and not ended; None if there is none.

    Raises:
        RunError: the file cannot be understood; says which one and what to do.
    """
    file = folder() / "state.json"
    try:
        content: dict[str, Any] = load_json(file)
        if content.pop("format") != FORMAT:
            raise ValueError(f"another format than {FORMAT}")
        nodes = tuple(Node(row["name"], Process(**row["process"])) for row in content.pop("nodes"))
        return LocalCluster(**content, nodes=nodes)
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise RunError(
            f"{file}: not a state of gfs up ({error}); end the Ray processes it started, if any, "
            "and remove it"
        ) from error


def forget() -> None:
    """Remove state and token."""
    for name in ("state.json", "token"):
        (folder() / name).unlink(missing_ok=True)
