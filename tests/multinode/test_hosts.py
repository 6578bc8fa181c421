"""One run over several hosts, and what can happen to a host: each with the undisturbed picks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.cli import main
from tests.multinode.hosts import PORT, Hosts, available, wait_for

pytestmark = [pytest.mark.multinode, pytest.mark.timeout(600)]

WORDS = ["steps=6000", "model.width=400", "device=cpu", "threads=1"]
LIMIT_S = 240
EARLY, LATE = 200, 3000


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network."""
    out = tmp_path_factory.mktemp("dense") / "run"
    words = ["model.width=400", "train.iterations=50", "train.checkpoint_every=50"]
    assert main(["pretrain", *words, "runtime=none", f"out={out}"]) == 0
    return out / "checkpoints" / "step_00000050"


@pytest.fixture(scope="module")
def expected(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the picks of a run that nothing disturbs, in this process."""
    out = tmp_path_factory.mktemp("expected") / "run"
    assert main(["prune", f"checkpoint={dense}", *WORDS, "runtime=none", f"out={out}"]) == 0
    return picks_of(out)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A head and two hosts with a CPU each."""
    if why := available():
        pytest.skip(why)
    with Hosts(3, tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture
def hosts(network: Hosts) -> Hosts:
    """The same, mended."""
    network.heal()
    return network


def picks_of(out: Path) -> str:
    [row] = report(out)["results"]
    return str(row["picks_sha256"])


def report(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report.json").read_text()))


def events(out: Path) -> list[dict[str, Any]]:
    file = out / "events.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Run:
    """``gfs prune`` on host 0."""

    def __init__(self, hosts: Hosts, out: Path, *words: str) -> None:
        self.hosts, self.out = hosts, out
        command = [sys.executable, "-m", "gfs_dist", "prune", *words]
        command += [f"runtime.address={hosts.address(0)}:{PORT}", "workers=2"]
        self.log = out.with_name(f"{out.name}.log")
        with self.log.open("a") as log:
            self.process = hosts.popen(0, command, stdout=log, stderr=subprocess.STDOUT)

    @classmethod
    def start(cls, hosts: Hosts, dense: Path, out: Path) -> Run:
        """A new run."""
        return cls(hosts, out, f"checkpoint={dense}", *WORDS, f"out={out}")

    def wait_for_step(self, step: int) -> None:
        """Until that many picks are made."""

        def reached() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return any((row.get("step") or 0) >= step for row in events(self.out))

        wait_for(f"step {step}", reached)

    def rank_on(self, host: int) -> dict[str, Any]:
        """The event of the rank that started on a host."""
        name = self.hosts.names[host]
        started = [row for row in events(self.out) if row["event"] == "rank_started"]
        [row] = [row for row in started if row["host"] == name]
        return row

    def end(self) -> int:
        """Its exit code; a run that hangs fails the test."""
        return self.process.wait(LIMIT_S)


def finish(hosts: Hosts, run: Run) -> None:
    """End the run, and resubmit it if it did not come through; it must have said why."""
    if run.end() != 0:
        told = [line for line in run.log.read_text().splitlines() if line.startswith("gfs: ")]
        assert told, run.log.read_text()
        again = Run(hosts, run.out, f"resume={run.out}")
        assert again.end() == 0, again.log.read_text()


def test_one_run_over_two_hosts(hosts: Hosts, dense: Path, expected: str, tmp_path: Path) -> None:
    run = Run.start(hosts, dense, tmp_path / "run")
    assert run.end() == 0, run.log.read_text()
    assert picks_of(run.out) == expected
    started = [row for row in events(run.out) if row["event"] == "rank_started"]
    assert sorted(row["rank"] for row in started) == [0, 1]
    assert {row["host"] for row in started} == set(hosts.names[1:])
    assert report(run.out)["faults"] == []


def test_a_host_that_is_cut_off_and_comes_back_late(
    hosts: Hosts, dense: Path, expected: str, tmp_path: Path
) -> None:
    run = Run.start(hosts, dense, tmp_path / "run")
    run.wait_for_step(EARLY)
    hosts.cut_off(2)
    wait_for("fault", lambda: any(row["event"] == "fault" for row in events(run.out)))
    hosts.join_again(2)
    finish(hosts, run)
    assert picks_of(run.out) == expected
    assert report(run.out)["faults"]


def test_a_killed_raylet(hosts: Hosts, dense: Path, expected: str, tmp_path: Path) -> None:
    run = Run.start(hosts, dense, tmp_path / "run")
    run.wait_for_step(EARLY)
    hosts.kill_raylet(2)
    finish(hosts, run)
    assert picks_of(run.out) == expected
    assert report(run.out)["faults"]


def test_a_frozen_worker(hosts: Hosts, dense: Path, expected: str, tmp_path: Path) -> None:
    run = Run.start(hosts, dense, tmp_path / "run")
    run.wait_for_step(EARLY)
    os.kill(run.rank_on(2)["pid"], signal.SIGSTOP)
    finish(hosts, run)
    assert picks_of(run.out) == expected
    assert report(run.out)["faults"]


def test_a_full_disk(hosts: Hosts, dense: Path, expected: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "gfs", str(disk)], check=True)
    try:
        run = Run.start(hosts, dense, disk / "run")
        run.wait_for_step(EARLY)
        filler = os.open(disk / "filler", os.O_CREAT | os.O_WRONLY)
        with pytest.raises(OSError, match="No space"):
            while True:
                os.write(filler, b"\0" * 4096)
        os.close(filler)
        code = run.end()
        (disk / "filler").unlink()
        assert code in (0, 1)
        if code:
            again = Run(hosts, run.out, f"resume={run.out}")
            assert again.end() == 0, again.log.read_text()
        assert picks_of(run.out) == expected
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("at_once", "told"),
    [
        (True, "gfs: (the Ray cluster was started again|workers: none could be started)"),
        (False, "Failed to connect to GCS"),
    ],
)
def test_a_head_that_dies(
    hosts: Hosts, dense: Path, expected: str, tmp_path: Path, at_once: bool, told: str
) -> None:
    """Ray itself ends a process that has had no head for a minute, and says so."""
    run = Run.start(hosts, dense, tmp_path / "run")
    run.wait_for_step(EARLY)
    for host in (0, 1, 2):
        hosts.end_ray(host)
    if at_once:
        for host in (0, 1, 2):
            hosts.start_ray(host)
    assert run.end() == 1
    assert re.search(told, run.log.read_text())
    hosts.heal()
    again = Run(hosts, run.out, f"resume={run.out}")
    assert again.end() == 0, again.log.read_text()
    assert picks_of(run.out) == expected


def test_nothing_is_left_behind(hosts: Hosts, dense: Path, tmp_path: Path) -> None:
    before = set(hosts.pids())
    run = Run.start(hosts, dense, tmp_path / "run")
    run.wait_for_step(LATE)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() in (130, -signal.SIGTERM)
    ranks = {row["pid"] for row in events(run.out) if row["event"] == "rank_started"}
    wait_for("ranks to go", lambda: not ranks & set(hosts.pids()), 30)
    assert before <= set(hosts.pids())
