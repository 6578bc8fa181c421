"""Following a job on a cluster that goes away, and ending one that has not begun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import aiohttp
import pytest
import requests

from gfs_dist.errors import ClusterError, ClusterLostError, RunError
from gfs_dist.service import jobs as service
from gfs_dist.service.cluster import Cluster
from gfs_dist.service.jobs import Job, Jobs

JOB = Job("a-1", "a", 1, "prune", "RUNNING", "/run", "0", "", 1.0, None, None, "")


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray's client says that to aiohttp
def test_a_cluster_lost_while_following_is_a_failure_not_wrong_usage(dashboard) -> None:
    dashboard.pages["/api/jobs/"] = []
    jobs = Jobs(Cluster(dashboard.url, dashboard.token, own=False, source="test"))
    for lose, how in (  # a head that forgot the job, then none at all
        (lambda: None, "answers with status 404"),
        (dashboard.close, "does not answer"),
    ):
        lose()
        with pytest.raises(ClusterLostError) as caught:
            jobs.follow(JOB, print)
        assert str(caught.value) == (
            f"a-1: its cluster was lost ({dashboard.url} {how}); once one answers again, the same "
            "gfs submit goes on where the job stopped"
        )
        assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (requests.ConnectionError("HTTPConnectionPool(host='a'): Max retries"), " does not answer"),
        (requests.Timeout("Read timed out. (read timeout=5)"), " does not answer"),
        (aiohttp.ServerDisconnectedError(), " does not answer"),
        (ConnectionResetError(104, "Connection reset by peer"), " does not answer"),
        (TimeoutError(), " does not answer"),
        (RuntimeError("Traceback\n  File x\nValueError: no room\n"), ": ValueError: no room"),
        (PermissionError(13, "Permission denied", "own.py"), ": [Errno 13] Permission denied"),
    ],
)
def test_errors_of_rays_client_are_told_in_plain_words(error: Exception, said: str) -> None:
    with (
        pytest.raises(ClusterError) as caught,
        service._plain_errors(Cluster("http://a:1", None, own=False, source="test")),
    ):
        raise error
    assert str(caught.value).startswith(f"http://a:1{said}")
    assert "Pool" not in str(caught.value)


class Client:
    """Ray's client, of which ``stop_job`` and the clock of the test are of interest."""

    def __init__(self, jobs: Jobs, states: Sequence[str], *, knows_after: int = 0) -> None:
        self.now_s, self.asked, self.knows_after = 0.0, 0, knows_after
        self._states: Iterator[str] = iter(states)
        jobs._client = self
        jobs.find = self._find  # type: ignore[method-assign]

    def stop_job(self, _job_id: str) -> bool:
        self.asked += 1
        return self.asked > self.knows_after

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def _find(self, _name: str) -> Job:
        return replace(JOB, status=next(self._states))


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch):
    """A client for a job that goes through the states."""

    def make(states: Sequence[str], **known: int) -> tuple[Jobs, Client]:
        jobs = Jobs.__new__(Jobs)
        jobs.cluster = Cluster("http://a:1", None, own=False, source="test")
        client = Client(jobs, states, **known)
        monkeypatch.setattr(service.time, "sleep", client.sleep)
        monkeypatch.setattr(service.time, "monotonic", lambda: client.now_s)
        return jobs, client

    return make


def test_a_job_that_waits_for_its_turn_is_stopped_however_long_that_takes(stopping) -> None:
    jobs, client = stopping([*["PENDING"] * 1000, "RUNNING", "STOPPED"])
    assert jobs.stop(replace(JOB, status="PENDING")).status == "STOPPED"
    assert client.now_s > 5 * service.STOP_TIMEOUT_S
    assert client.asked == 1


def test_a_job_that_ray_does_not_know_yet_is_asked_again(stopping) -> None:
    jobs, client = stopping([*["PENDING"] * 3, "RUNNING", "STOPPED"], knows_after=2)
    assert jobs.stop(replace(JOB, status="PENDING")).status == "STOPPED"
    assert client.asked == 3


def test_a_job_that_does_not_end_is_a_failure(stopping) -> None:
    jobs, client = stopping([*["PENDING"] * 500, *["RUNNING"] * 500])
    with pytest.raises(RunError, match=r"^a-1: still RUNNING after 60 s$"):
        jobs.stop(replace(JOB, status="PENDING"))
    assert client.now_s == pytest.approx(250 + service.STOP_TIMEOUT_S, abs=2)


def test_a_job_that_is_over_is_not_asked(stopping) -> None:
    jobs, client = stopping([])
    assert jobs.stop(replace(JOB, status="FAILED")).status == "FAILED"
    assert client.asked == 0
