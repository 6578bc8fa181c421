"""The coordinator itself dies: no worker outlives it, and its record is enough to go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from tests.runtime.problems import matrix_problem

STOP = Stop(steps=40)
ROOT = Path(__file__).parents[2]
DRIVER = """
import json, sys
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.selection.stop import Stop
from tests.runtime.problems import matrix_problem

def record(progress):
    path = progress.path
    with open(sys.argv[2], "a") as out:
        pids = [row["pid"] for row in progress.events if row["pid"]]
        row = {"pids": pids, "picks": path.picks, "loss": path.loss, "sizes": path.step_sizes}
        print(json.dumps(row), file=out, flush=True)

if __name__ == "__main__":
    with open_runtime(RuntimeSpec(kind=sys.argv[1], workers=2, threads=1)) as runtime:
        runtime.search(matrix_problem(seed=4, step_s=0.02), Stop(steps=40), on_progress=record)
"""


def _run(kind: str, faults: list[dict[str, object]], record: Path) -> int:
    script = record.with_suffix(".py")
    script.write_text(DRIVER)
    environment = {**os.environ, "GFS_FAULTS": json.dumps(faults), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), kind, str(record)]
    return subprocess.run(command, env=environment, timeout=600, check=False).returncode


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait_until_gone(pids: list[int], limit_s: float) -> list[int]:
    deadline = time.monotonic() + limit_s
    while (left := [pid for pid in pids if _alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_no_worker_outlives_a_killed_driver_and_its_record_goes_on(
    tmp_path: Path, kind: str
) -> None:
    record = tmp_path / "record"
    faults = [{"rank": -1, "step": 15}]
    if kind == "local":
        faults.append({"rank": 1, "step": 25, "kind": "stop"})  # a stopped one goes too
    assert _run(kind, faults, record) == -signal.SIGKILL
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    pids = [pid for row in rows for pid in row["pids"]]
    assert len(pids) == 2
    assert _wait_until_gone(pids, 5.0) == []

    last = rows[-1]
    assert 15 <= len(last["picks"]) < 40
    problem = matrix_problem(seed=4)
    path = GreedyPath(24, last["picks"], last["loss"], last["sizes"], [None] * len(last["picks"]))
    with open_runtime(RuntimeSpec(kind="none")) as runtime:
        expected = runtime.search(problem, STOP).path
        assert runtime.search(problem, STOP, path=path).path.picks == expected.picks
