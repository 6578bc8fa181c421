"""A hundred faults over many short runs: every run ends with the undisturbed picks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.records.soak import DRIVER, schedule, soak


def test_a_schedule_ends_with_a_driver_that_lives() -> None:
    chance = random.Random(0)
    for _ in range(200):
        *before, last = schedule(chance)
        assert all(part[-1]["rank"] == DRIVER for part in before)
        assert all(fault["rank"] != DRIVER for fault in last)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_faults_change_no_pick_and_leave_nothing(tmp_path: Path) -> None:
    outcomes = soak(tmp_path, faults=100, seed=0)
    assert sum(outcome.injected for outcome in outcomes) >= 100
    assert [outcome.trouble for outcome in outcomes if outcome.trouble] == []
