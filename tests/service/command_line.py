"""The command line as a user types it, with the state of ``gfs up`` in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gfs_dist.service import http
from gfs_dist.service.processes import marked
from gfs_dist.service.submission import CONFIG

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 600


class Gfs:
    """The command line in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.environment = {
            **kept,
            "XDG_STATE_HOME": str(home / "state"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Without waiting for its end."""
        return subprocess.Popen(
            **self._call(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def __call__(self, *words: str, exit_code: int = 0) -> str:
        done = subprocess.run(**self._call(words), capture_output=True, timeout=TIMEOUT_S)
        assert done.returncode == exit_code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def _call(self, words: Sequence[str]) -> dict[str, Any]:
        command = [sys.executable, "-m", "gfs_dist", *words]
        return {"args": command, "cwd": self.home, "env": self.environment, "text": True}

    def json(self, *words: str, exit_code: int = 0) -> Any:
        return json.loads(
            [
                line
                for line in self(*words, "--json", exit_code=exit_code).splitlines()
                if line.startswith("{")
            ][-1]
        )

    @property
    def left(self) -> list[str]:
        """What jobs that have ended still hold: placement groups, actors, drivers."""
        groups = [row for row in self.rows("placement_groups") if row["state"] != "REMOVED"]
        actors = [row for row in self.rows("actors") if row["state"] != "DEAD"]
        drivers = [process for process in marked(self.state["mark"]) if _is_driver(process.pid)]
        return [str(found) for found in (*groups, *actors, *drivers)]

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.home / "state" / "gfs" / "cluster" / "state.json").read_text())

    def rows(self, what: str) -> list[dict[str, Any]]:
        token = (self.home / "state" / "gfs" / "cluster" / "token").read_text()
        url = f"{self.state['dashboard']}/api/v0/{what}?limit=1000"
        return http.get_json(url, token, 30.0)["data"]["result"]["result"]


def _is_driver(pid: int) -> bool:
    try:
        return CONFIG.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
