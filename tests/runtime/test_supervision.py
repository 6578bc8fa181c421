"""Who hangs and who only waits: rules, on a clock of their own."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from gfs_dist.runtime.heartbeat import Beat
from gfs_dist.runtime.watchdog import GRACE_S, Call, Patience


def call(
    heard: float, moved: float, setup: bool = False, waits: bool = False, phase: str = "work"
) -> Call:
    beat = Beat(beats=1, phase=phase, calls=int(waits))
    return Call(None, Future(), setup, beat, heard, moved)  # type: ignore[arg-type]


NOW = 1000.0
PATIENCE = Patience(10.0, step_s=0.01)


def test_a_rank_without_signs_of_life_and_steps_hangs() -> None:
    assert call(NOW - 11, NOW - 11).overdue(PATIENCE, NOW, None)
    assert not call(NOW - 9, NOW - 9).overdue(PATIENCE, NOW, None)


def test_a_missed_heartbeat_alone_does_not_kill() -> None:
    assert not call(NOW - 100, NOW - 1).overdue(PATIENCE, NOW, None)


def test_a_rank_that_waits_for_others_does_not_hang() -> None:
    assert not call(NOW, NOW - 99, waits=True).overdue(PATIENCE, NOW, None)


def test_after_a_fault_a_rank_gets_a_grace_to_notice_it() -> None:
    waiting = call(NOW, NOW - 99, waits=True)
    assert not waiting.overdue(PATIENCE, NOW, NOW - GRACE_S + 1)
    assert waiting.overdue(PATIENCE, NOW, NOW - GRACE_S - 1)


def test_a_long_step_is_no_hang_but_a_very_long_one_is() -> None:
    assert not call(NOW, NOW - 50).overdue(PATIENCE, NOW, None)
    assert call(NOW, NOW - 101).overdue(PATIENCE, NOW, None)


def test_set_up_may_take_any_time_while_there_are_signs_of_life() -> None:
    assert not call(NOW, NOW - 9999, setup=True).overdue(PATIENCE, NOW, None)
    assert not call(NOW - 59, NOW - 59, setup=True).overdue(PATIENCE, NOW, None)
    assert call(NOW - 61, NOW - 61, setup=True).overdue(PATIENCE, NOW, None)


def test_a_group_task_that_has_not_ticked_yet_prepares_itself() -> None:
    assert not call(NOW - 59, NOW - 59, phase="setup").overdue(PATIENCE, NOW, None)
    assert call(NOW - 61, NOW - 61, phase="setup").overdue(PATIENCE, NOW, None)
    waiting = call(NOW, NOW - 99, phase="setup", waits=True)
    assert waiting.overdue(PATIENCE, NOW, NOW - GRACE_S - 1)


def test_patience_grows_with_the_time_of_a_step() -> None:
    assert Patience(10.0, step_s=3.0).silent_s == pytest.approx(60.0)
    assert Patience(10.0).busy_s == pytest.approx(600.0)


def test_a_call_notes_when_it_heard_and_when_the_rank_moved() -> None:
    watched = call(0.0, 0.0)
    watched.listen(Beat(beats=2, phase="work"), 5.0)
    assert (watched.heard, watched.moved) == (5.0, 0.0)
    watched.listen(Beat(beats=2, phase="work", ticks=1), 6.0)
    assert (watched.heard, watched.moved) == (5.0, 6.0)
