"""The command line on a real cluster of this machine, from ``gfs up`` to ``gfs down``."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gfs_dist.service import http
from gfs_dist.service.cluster import find_cluster
from gfs_dist.service.fetching import _print_packed
from gfs_dist.service.jobs import Jobs
from gfs_dist.service.packing import unpack
from gfs_dist.service.processes import marked
from tests.service.command_line import TIMEOUT_S, Gfs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TINY = [
    "prune", "model.width=40", "data.samples=200", "steps=15", "train.iterations=20",
    "train.checkpoint_every=10", "workers=1",
]  # fmt: skip
LONG = [
    "prune", "model.width=300", "steps=500", "train.iterations=20", "train.checkpoint_every=20",
    "workers=1",
]  # fmt: skip
"""Half a minute with the exhaustive method, seconds with another, which makes the same picks."""


@pytest.fixture(scope="module")
def gfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gfs]:
    """A cluster with one worker; at the end nothing of it is left."""
    run = Gfs(tmp_path_factory.mktemp("gfs"))
    told = run.json("up", "workers=1")
    mark, temporary = run.state["mark"], Path(run.state["temporary"])
    try:
        assert len(told["pids"]) == 2
        yield run
    finally:
        assert run.json("down") == {"ended": True}
    assert marked(mark) == []
    assert not temporary.exists()
    assert list((run.home / "state" / "gfs" / "cluster").iterdir()) == []
    assert "nothing to do" in run("down")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def picks(folder: Path) -> list[str]:
    report = json.loads((folder / "report.json").read_text())
    assert report["status"] == "finished"
    return [row["picks_sha256"] for row in report["results"]]


def test_the_cluster_is_for_its_owner(gfs: Gfs) -> None:
    token = gfs.home / "state" / "gfs" / "cluster" / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert gfs.state["dashboard"].startswith("http://127.0.0.1:")
    for wrong, message in ((None, "status 401"), ("wrong", "status 403")):
        with pytest.raises(http.AnswerError, match=message):
            http.get_json(f"{gfs.state['dashboard']}/api/version", wrong)
    assert "already up" in gfs("up", "workers=1")
    assert "with 1 is up already" in gfs("up", "workers=2", exit_code=2)


def test_the_doctor_finds_nothing(gfs: Gfs) -> None:
    checks = {check["name"]: check for check in gfs.json("doctor")["checks"]}
    assert checks["cluster"]["state"] == checks["nodes"]["state"] == "ok"
    assert checks["gfs up"]["found"] == "a head and 1 workers"


def test_a_job_is_followed_shown_and_fetched(gfs: Gfs) -> None:
    shown = gfs("submit", *TINY)
    (job,) = gfs.json("list")["jobs"]
    assert (job["status"], job["exit_code"], job["attempt"]) == ("SUCCEEDED", 0, 1)
    for line in ("two-layer, 40 tanh neurons", f"submitted as {job['id']}", "pruned", "next: gfs"):
        assert line in shown, line
    assert f"next: gfs fetch {job['id']}" in shown
    folder = Path(job["run_folder"])
    assert folder == gfs.home / "runs" / job["base"]
    assert job["id"] in gfs("list")
    assert gfs.json("status", job["base"])["id"] == job["id"]
    assert "pruned" in gfs("logs", job["id"])
    assert gfs.json("logs", job["id"], "rank=0")["id"] == job["id"]
    gfs("fetch", job["id"], "fetched")
    assert picks(gfs.home / "fetched") == picks(folder)
    assert "exists and is not empty" in gfs("fetch", job["id"], "fetched", exit_code=2)


def test_the_same_job_again_is_shown(gfs: Gfs) -> None:
    assert "has finished already" in gfs("submit", *TINY)
    assert len(gfs.json("list")["jobs"]) == 1


def test_an_unknown_job_is_named_with_those_alike(gfs: Gfs) -> None:
    (job,) = gfs.json("list")["jobs"]
    said = gfs("status", job["base"][:-2] + "zz", exit_code=2)
    assert f"did you mean {job['id']}?" in said
    assert len(said.splitlines()) == 1


def test_what_cannot_fit_is_refused(gfs: Gfs) -> None:
    said = gfs("submit", *TINY[:-1], "workers=500", exit_code=2)
    assert "workers: found 500" in said
    said = gfs("submit", *TINY[:-1], "device=cuda", exit_code=2)
    assert "each takes a GPU; accepted at most 0" in said


def test_the_exit_code_is_that_of_the_job(gfs: Gfs) -> None:
    missing = gfs.home / "there"
    missing.mkdir()
    words = ["prune", f"checkpoint={missing}", "out=broken"]
    assert "there" in gfs("submit", *words, exit_code=2)  # found here, before it is sent
    assert all(job["status"] == "SUCCEEDED" for job in gfs.json("list")["jobs"])
    occupied = gfs.home / "occupied"
    occupied.mkdir()
    (occupied / "file").touch()
    said = gfs("submit", *TINY, "out=occupied", exit_code=2)  # found by the job
    assert "exists and is not empty" in said
    assert "failed with exit code 2" in said


def test_a_stopped_job_leaves_nothing_and_goes_on_with_the_same_picks(gfs: Gfs) -> None:
    gfs(*LONG, "runtime=none", "method=lazy", "out=undisturbed")
    words = [*LONG, "method=exhaustive"]
    job = gfs.json("submit", *words)
    assert job["how"] == "submitted"
    again = gfs.json("submit", *words)
    assert (again["how"], again["id"]) == ("attached", job["id"])
    folder = Path(job["run_folder"])
    wait_for(lambda: any((folder / "paths").glob("step_00000000*.json")))  # its first picks
    assert gfs.json("stop", job["id"])["status"] == "STOPPED"
    assert (
        not (folder / "report.json").exists()
        or "finished" not in (folder / "report.json").read_text()
    )
    wait_for(lambda: not gfs.left)
    shown = gfs("submit", *words)
    assert f"submitted as {job['base']}-2, which goes on in {folder}" in shown
    assert picks(folder) == picks(gfs.home / "undisturbed")


def test_a_run_folder_at_a_url_needs_no_path_that_machines_share(gfs: Gfs) -> None:
    gfs(*LONG, "runtime=none", "method=lazy", "out=beside")
    url, there = f"file://{gfs.home}/bucket/run", gfs.home / "bucket" / "run"
    words = [*LONG, "method=exhaustive", f"out={url}"]
    job = gfs.json("submit", *words)
    assert job["run_folder"] == url
    wait_for(lambda: any((there / "paths").glob("step_00000000*.json")))  # its first picks
    assert gfs.json("stop", job["id"])["status"] == "STOPPED"
    wait_for(lambda: not gfs.left)
    assert f"submitted as {job['base']}-2, which goes on in {url}" in gfs("submit", *words)
    assert picks(there) == picks(gfs.home / "beside")
    assert list((gfs.home / "state" / "gfs" / "runs").iterdir()) == []
    assert url in gfs("status", job["base"])
    assert gfs.json("logs", job["base"], "rank=0")["id"] == f"{job['base']}-2"
    gfs("fetch", job["base"], "from_url")
    assert picks(gfs.home / "from_url") == picks(there)
    assert "has finished already" in gfs("submit", *words)
    said = gfs("submit", *TINY, f"out={url}", exit_code=2)  # found by the job
    assert "the run folder has" in said


def test_own_code_goes_along_and_sweeps_are_one_job_a_point(gfs: Gfs) -> None:
    (gfs.home / "own_net.py").write_text(
        "from torch import nn\nfrom own_size import SIZE\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, SIZE), nn.ReLU(), "
        "nn.Linear(SIZE, 10))\n"
    )
    (gfs.home / "own_size.py").write_text("SIZE = 12\n")
    words = [
        "pretrain", "-m", "seed=0,1", "model=custom", "model.factory=own_net:make",
        "data.samples=200", "train.iterations=10",
    ]  # fmt: skip
    shown = gfs("submit", *words)
    assert shown.count("2 files of yours went along") == 2
    assert shown.index("submitted as pretrain", shown.index("submitted as pretrain") + 1) < (
        shown.index("following pretrain")
    )
    jobs = [job for job in gfs.json("list")["jobs"] if job["job"] == "pretrain"]
    assert [job["status"] for job in jobs] == ["SUCCEEDED", "SUCCEEDED"]
    assert len({job["run_folder"] for job in jobs}) == 2


def test_a_run_folder_comes_back_from_storage_that_cannot_be_seen(
    gfs: Gfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", gfs.environment["XDG_STATE_HOME"])
    jobs = Jobs(find_cluster(None))
    before = jobs.list()
    job = next(job for job in before if job.status == "SUCCEEDED")
    unpack(_print_packed(jobs, job), tmp_path / "far")
    assert (tmp_path / "far" / "report.json").read_bytes() == (
        Path(job.run_folder) / "report.json"
    ).read_bytes()
    assert [found.id for found in jobs.list()] == [found.id for found in before]


def test_a_cluster_whose_head_was_killed_is_told_and_cleared_away(gfs: Gfs) -> None:
    """The last test: what remains is for the end of the fixture, ``gfs down``."""
    with gfs.start("submit", *LONG, "method=exhaustive", "out=lost") as follower:
        assert follower.stdout is not None
        assert any("submitted as" in line for line in follower.stdout)
        wait_for(lambda: (gfs.home / "lost" / "events.jsonl").exists())
        os.kill(gfs.state["nodes"][0]["process"]["pid"], signal.SIGKILL)
        said, _ = follower.communicate(timeout=TIMEOUT_S)
    assert follower.returncode == 1, said
    assert "its cluster was lost" in said
    wait_for(lambda: "has died" in gfs("list", exit_code=2))
    assert "gfs down" in gfs("list", exit_code=2)
    checks = {check["name"]: check for check in gfs.json("doctor")["checks"]}
    assert checks["gfs up"]["state"] == "warn"
