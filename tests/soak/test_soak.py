"""A hundred faults over many short runs: every run ends with the undisturbed picks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tools.records.soak import DRIVER, faults_of, schedule, soak


def test_a_schedule_ends_with_a_driver_that_lives() -> None:
    chance = random.Random(0)
    for _ in range(200):
        *before, last = schedule(chance)
        assert all(part[-1]["rank"] == DRIVER for part in before)
        assert all(fault["rank"] != DRIVER for fault in last)


def test_every_kind_of_fault_is_scheduled() -> None:
    chance = random.Random(0)
    faults = [fault for _ in range(20) for part in schedule(chance) for fault in part]
    assert {fault.get("kind", "driver") for fault in faults} == {
        "kill", "exit", "stop", "cut", "driver",
    }  # fmt: skip


def test_recovery_is_counted_from_the_fault_of_the_same_rank() -> None:
    events = [
        {"event": "fault", "rank": 1, "kind": "hung", "step": 4, "time": 10.0},
        {"event": "recovered", "rank": 2, "step": 4, "time": 11.0},
        {"event": "recovered", "rank": 1, "step": 5, "time": 12.5},
        {"event": "fault", "rank": 1, "kind": "killed", "step": 9, "time": 20.0},
    ]
    first, second = faults_of(events)
    assert first == {"kind": "hung", "step": 4, "recovered_s": 2.5}
    assert second["recovered_s"] is None


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_faults_change_no_pick_and_leave_nothing(tmp_path: Path) -> None:
    outcomes = soak(tmp_path, faults=100, seed=0)
    assert sum(outcome.injected for outcome in outcomes) >= 100
    assert [outcome.trouble for outcome in outcomes if outcome.trouble] == []
