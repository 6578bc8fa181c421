"""``gfs stop``: what it says while a job waits for its turn, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gfs_dist.cli import main
from gfs_dist.jobs import stop
from tests.jobs.test_submit import job


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``gfs stop a-1`` of a job in one state that ends in another."""

    def run(before: str, after: str | None) -> int:
        def end(found: Any) -> Any:
            if after is None:
                raise KeyboardInterrupt
            return replace(found, status=after)

        jobs = SimpleNamespace(stop=end)
        monkeypatch.setattr(stop, "one_job", lambda _: (jobs, job(before)))
        return main(["stop", "a-1"])

    return run


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "PENDING",
            "STOPPED",
            "a-1 waits for its turn, and is stopped when that comes\n"
            "a-1: STOPPED; the same gfs submit goes on where it stopped",
        ),
        ("RUNNING", "STOPPED", "a-1: STOPPED; the same gfs submit goes on where it stopped"),
        ("RUNNING", "SUCCEEDED", "a-1: SUCCEEDED; it ended by itself"),
        ("FAILED", "FAILED", "a-1 is over already: FAILED"),
    ],
)
def test_a_job_that_is_over_in_the_end_exits_well(
    stopped: Any, capsys: pytest.CaptureFixture[str], before: str, after: str, said: str
) -> None:
    assert stopped(before, after) == 0
    assert said in capsys.readouterr().out


def test_who_waits_no_longer_is_told_that_the_request_stays(
    stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stopped("PENDING", None) == 130
    assert (
        capsys.readouterr().err == "gfs: interrupted; a-1 was asked to stop: see gfs status a-1\n"
    )
