"""A dashboard that answers as Ray's does, and a state folder of the test's own."""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

VARIABLES = (
    "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH",
    "RAY_AUTH_MODE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nobody_elses_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


class Dashboard:
    """Answers with ``pages``; wants ``token``, if it is not None."""

    def __init__(self) -> None:
        self.token: str | None = "right"
        self.seen: list[str | None] = []
        self.pages = {
            "/api/version": {"version": "4", "ray_version": metadata.version("ray")},
            "/api/v0/cluster_metadata": {"data": {"pythonVersion": platform.python_version()}},
            "/api/v0/nodes": {"data": {"result": {"result": []}}},
        }
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                given = self.headers.get("Authorization")
                outer.seen.append(given)
                page = outer.pages.get(self.path.partition("?")[0])
                if outer.token is not None and given != f"Bearer {outer.token}":
                    status, page = (403 if given else 401), {"error": "token"}
                elif isinstance(page, str):  # elsewhere
                    self.send_response(302)
                    self.send_header("Location", page)
                    self.end_headers()
                    return
                else:
                    status = 200 if page is not None else 404
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(page).encode())

            def log_message(self, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    server = Dashboard()
    yield server
    server.close()


Node = Callable[..., dict[str, object]]


@pytest.fixture
def node() -> Node:
    """A row of Ray's list of nodes."""

    def make(state: str = "ALIVE", **resources: float) -> dict[str, object]:
        return {"state": state, "resources_total": resources}

    return make
