"""Find the cluster to use and check it, in short requests before anything else.

The first of: an address that was given; Ray's own variables; what ``gfs up`` started. Ray's client
waits for minutes for a dead address, and says nothing of a wrong token.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from gfs_dist.command_words import typed
from gfs_dist.errors import ClusterError
from gfs_dist.service import http, state
from gfs_dist.urls import in_home

DASHBOARD_PORT = 8265
VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True)
class Cluster:
    """A cluster that answers and accepts our token.

    Attributes:
        url: of its dashboard, ``http://HOST:PORT``.
        token: None where it asks for none.
        own: whether ``gfs up`` started it, on this machine.
        source: the key or variable that named it, or ``gfs up``.
        words: that name it on a command line as the user did.
    """

    url: str
    token: str | None
    own: bool
    source: str
    words: tuple[str, ...] = ()

    def get(self, path: str) -> Any:
        """The dashboard's answer to a request for ``path``.

        Raises:
            ClusterError: there is none.
        """
        with self._answering():
            return http.get_json(self.url + path, self.token)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive.

        Raises:
            ClusterError: the dashboard does not answer.
        """
        with self._answering():
            rows = http.nodes(self.url, self.token, timeout_s=4 * http.TIMEOUT_S)
        return [row for row in rows if row["state"] == "ALIVE"]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except http.RequestError as error:
            raise ClusterError(f"{self.source}: {self.url} does not answer: {error}") from error


def find_cluster(address: str | None, *, insecure: bool = False) -> Cluster:
    """The cluster to use.

    Args:
        address: ``http://HOST:PORT`` of a dashboard, ``HOST:PORT`` of a cluster, ``auto``, or None.
        insecure: accept one that asks for no token.

    Raises:
        ClusterError: none is named, it is dead, it refuses our token or asks for none, or it has
            another Ray.
    """
    own = state.read()
    given = [("runtime.address", address), *((name, os.environ.get(name)) for name in VARIABLES)]
    source, named = next(((s, a) for s, a in given if a), ("gfs up", None))
    if named is None or (named == "auto" and own is not None):
        url = _own_dashboard(own)
    elif own is not None and named in (own.address, own.dashboard):
        url = own.dashboard
    else:
        url = _dashboard(source, named)
    is_own = own is not None and url == own.dashboard
    token = state.read_token() if is_own else find_token()
    cluster = Cluster(url, token, is_own, source, words_for(address, insecure=insecure))
    return _checked(cluster, insecure)


def words_for(address: str | None, *, insecure: bool) -> tuple[str, ...]:
    """The words of a command line that name a cluster."""
    named = [typed("runtime.address", address)] if address else []
    return (*named, *(["--insecure"] if insecure else []))


def find_token() -> str | None:
    """The token that Ray's own tools would use, or None.

    Raises:
        ClusterError: the file of the token cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = in_home(named or "~/.ray/auth_token")
    try:
        return file.read_text(encoding="ascii").strip() or None
    except FileNotFoundError as error:
        if named:
            raise ClusterError(f"RAY_AUTH_TOKEN_PATH: found no file {file}") from error
        return None
    except (OSError, ValueError) as error:
        raise ClusterError(f"{file}: the token cannot be read ({error})") from error


def _own_dashboard(own: state.LocalCluster | None) -> str:
    if own is None:
        raise ClusterError(
            f"no Ray cluster: runtime.address is null, {' and '.join(VARIABLES)} are not set, and "
            "gfs up has started none; start one here with: gfs up workers=2"
        )
    if not own.runs:
        raise ClusterError(
            "the cluster that gfs up started has died; clear it away with gfs down, or start it "
            f"again with: gfs up workers={own.workers}"
        )
    return own.dashboard


def _dashboard(source: str, address: str) -> str:
    """The URL of the dashboard of a cluster, named in any way."""
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ClusterError(
            f"{source}: found {address!r}, accepted http://HOST:{DASHBOARD_PORT} (the dashboard), "
            "HOST:PORT, or auto for the cluster of gfs up"
        )
    for url in (f"http://{host}:{port}", f"http://{host}:{DASHBOARD_PORT}"):
        try:
            http.get_json(f"{url}/api/version", None)
        except http.SilentError as error:  # of a cluster, every port answers or refuses
            raise ClusterError(f"{source}: no Ray cluster answers at {url} ({error})") from error
        except http.UnreachableError:
            continue
        except http.AnswerError:
            return url
        return url
    raise ClusterError(
        f"{source}: no Ray dashboard at {address}, nor at {host}:{DASHBOARD_PORT}; "
        f"name it: http://{host}:PORT"
    )


def _checked(cluster: Cluster, insecure: bool) -> Cluster:
    """``cluster``, without its token if it wants none: no other server gets to see it."""
    url, source = cluster.url, cluster.source
    try:
        version = http.get_json(f"{url}/api/version", None)
    except http.UnreachableError as error:
        raise ClusterError(f"{source}: no Ray cluster answers at {url} ({error})") from error
    except http.AnswerError as error:
        if error.status not in (401, 403):
            raise ClusterError(f"{source}: {url} is no Ray dashboard ({error})") from error
        version = _version_with_token(cluster)
    else:
        if not insecure:
            raise ClusterError(
                f"{source}: {url} asks for no token: whoever reaches it can run code there. Start "
                "it with RAY_AUTH_MODE=token, or accept that with --insecure"
            )
        cluster = replace(cluster, token=None)
    ray = version.get("ray_version") if isinstance(version, dict) else None
    if not isinstance(ray, str):
        raise ClusterError(f"{source}: {url} is no Ray dashboard")
    _refuse_other(
        cluster, "Ray", ray, metadata.version("ray"), f"pip install 'ray[default]=={ray}'"
    )
    # The user's code that travels with a job was written for the Python here.
    facts = cluster.get("/api/v0/cluster_metadata")
    data = facts.get("data") if isinstance(facts, dict) else None
    python = str(data.get("pythonVersion", "")) if isinstance(data, dict) else ""
    if python:
        _refuse_other(cluster, "Python", python, platform.python_version())
    return cluster


def _version_with_token(cluster: Cluster) -> Any:
    if cluster.token is None:
        raise ClusterError(
            f"{cluster.source}: {cluster.url} wants a token and none was found; set "
            "RAY_AUTH_TOKEN_PATH to the file that holds the cluster's"
        )
    try:
        return http.get_json(f"{cluster.url}/api/version", cluster.token)
    except http.AnswerError as error:
        raise ClusterError(
            f"{cluster.source}: {cluster.url} refuses the token (status {error.status}): it is "
            "another cluster's; set RAY_AUTH_TOKEN_PATH to the file that holds this one's"
        ) from error
    except http.UnreachableError as error:
        raise ClusterError(f"{cluster.source}: {cluster.url} does not answer: {error}") from error


def _refuse_other(cluster: Cluster, what: str, there: str, here: str, cure: str = "") -> None:
    """Refuse a version that differs in more than its last number."""
    if there.split(".")[:2] != here.split(".")[:2]:
        raise ClusterError(
            f"{cluster.source}: {cluster.url} runs {what} {there}, here is {here}; "
            + (f"install the same: {cure}" if cure else "use the same")
        )
