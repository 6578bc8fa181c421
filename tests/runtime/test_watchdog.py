"""Which rank hangs and which only waits: rules, on a clock of their own."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from gfs_dist.runtime.heartbeat import Heartbeat, WorkerPhase
from gfs_dist.runtime.watchdog import GRACE_S, HangTimeouts, WatchedCall


def call(
    heard: float,
    moved: float,
    setup: bool = False,
    waits: bool = False,
    phase: WorkerPhase = WorkerPhase.WORK,
) -> WatchedCall:
    beat = Heartbeat(beats=1, phase=phase, calls=int(waits))
    return WatchedCall(None, Future(), setup, beat, heard, moved)  # type: ignore[arg-type]


NOW = 1000.0
TIMEOUTS = HangTimeouts(10.0, step_s=0.01)


def test_a_rank_without_signs_of_life_and_steps_hangs() -> None:
    assert call(NOW - 11, NOW - 11).hangs(TIMEOUTS, NOW, None)
    assert not call(NOW - 9, NOW - 9).hangs(TIMEOUTS, NOW, None)


def test_a_missed_heartbeat_alone_does_not_kill() -> None:
    assert not call(NOW - 100, NOW - 1).hangs(TIMEOUTS, NOW, None)


def test_a_rank_that_waits_for_others_does_not_hang() -> None:
    assert not call(NOW, NOW - 99, waits=True).hangs(TIMEOUTS, NOW, None)


def test_after_a_fault_a_rank_gets_a_grace_to_notice_it() -> None:
    waiting = call(NOW, NOW - 99, waits=True)
    assert not waiting.hangs(TIMEOUTS, NOW, NOW - GRACE_S + 1)
    assert waiting.hangs(TIMEOUTS, NOW, NOW - GRACE_S - 1)


def test_a_long_step_is_no_hang_but_a_very_long_one_is() -> None:
    assert not call(NOW, NOW - 50).hangs(TIMEOUTS, NOW, None)
    assert call(NOW, NOW - 101).hangs(TIMEOUTS, NOW, None)


def test_set_up_may_take_any_time_while_there_are_signs_of_life() -> None:
    assert not call(NOW, NOW - 9999, setup=True).hangs(TIMEOUTS, NOW, None)
    assert not call(NOW - 59, NOW - 59, setup=True).hangs(TIMEOUTS, NOW, None)
    assert call(NOW - 61, NOW - 61, setup=True).hangs(TIMEOUTS, NOW, None)


def test_a_group_task_that_has_not_ticked_yet_prepares_itself() -> None:
    assert not call(NOW - 59, NOW - 59, phase=WorkerPhase.SETUP).hangs(TIMEOUTS, NOW, None)
    assert call(NOW - 61, NOW - 61, phase=WorkerPhase.SETUP).hangs(TIMEOUTS, NOW, None)
    waiting = call(NOW, NOW - 99, phase=WorkerPhase.SETUP, waits=True)
    assert waiting.hangs(TIMEOUTS, NOW, NOW - GRACE_S - 1)


def test_timeouts_grow_with_the_time_of_a_step() -> None:
    assert HangTimeouts(10.0, step_s=3.0).silent_s == pytest.approx(60.0)
    assert HangTimeouts(10.0).busy_s == pytest.approx(600.0)


def test_a_call_notes_when_it_heard_and_when_the_rank_moved() -> None:
    watched = call(0.0, 0.0)
    watched.listen(Heartbeat(beats=2, phase=WorkerPhase.WORK), 5.0)
    assert (watched.heard, watched.moved) == (5.0, 0.0)
    watched.listen(Heartbeat(beats=2, phase=WorkerPhase.WORK, ticks=1), 6.0)
    assert (watched.heard, watched.moved) == (5.0, 6.0)
