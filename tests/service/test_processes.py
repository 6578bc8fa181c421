"""A process is known by number and start, and only such a one is ever ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from gfs_dist.service.processes import MARK, Process, end, end_marked, marked

SLEEPER = "import signal, sys; print(flush=True); signal.pause()"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


@pytest.fixture
def start() -> Iterator:
    children: list[subprocess.Popen] = []

    def start(code: str = SLEEPER, **environment: str) -> Process:
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        children.append(child)
        assert child.stdout is not None
        child.stdout.readline()  # it is ready
        process = Process.of(child.pid)
        assert process is not None
        return process

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_process_is_itself_until_it_ends(start) -> None:
    process = start()
    assert process.runs
    assert end([process], signal.SIGTERM, 10) == []
    assert not process.runs


def test_a_number_that_was_given_to_another_is_left_alone(start) -> None:
    process = start()
    before = replace(process, began=process.began - 1)
    other_boot = replace(process, boot="before")
    assert not before.runs
    assert not other_boot.runs
    assert end([before, other_boot], signal.SIGKILL, 1) == []
    assert process.runs


def test_those_that_do_not_end_in_time_are_told(start) -> None:
    deaf, good = start(DEAF), start()
    assert end([deaf, good], signal.SIGTERM, 1.0) == [deaf]
    assert deaf.runs
    assert end([deaf], signal.SIGKILL, 10) == []


def test_what_carries_the_mark_is_found_and_nothing_else(start) -> None:
    mine, other = start(DEAF, **{MARK: "test-mine"}), start(**{MARK: "test-mine-too"})
    assert marked("test-mine") == [mine]
    assert end_marked("test-mine") == 1
    assert not mine.runs
    assert other.runs
    assert end_marked("test-mine") == 0


def test_nobody_has_an_impossible_number() -> None:
    assert Process.of(2**22 + 1) is None
