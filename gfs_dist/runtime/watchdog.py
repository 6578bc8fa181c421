"""Watches calls to workers: has each answered, died, or does it hang?

A hang is a lack of progress. A worker whose heartbeats stop, but whose steps go on, is left alone;
so is one that waits for others.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch.distributed import TCPStore

from gfs_dist.runtime.backends.base import Worker, WorkerDiedError
from gfs_dist.runtime.heartbeat import Heartbeat, WorkerPhase, read_heartbeats

POLL_S = 0.05
# After a fault a rank that still waits for others gets this long to notice it.
GRACE_S = 10.0


@dataclass
class HangTimeouts:
    """How long is too long, in seconds.

    Attributes:
        floor_s: the least limit.
        step_s: measured time of a step, None while unknown.
    """

    floor_s: float
    step_s: float | None = None

    @property
    def silent_s(self) -> float:
        """Neither a heartbeat nor a step: the process does not run."""
        return max(self.floor_s, 20.0 * (self.step_s or 0.0))

    @property
    def setup_s(self) -> float:
        """The same during set-up, where one long call may hold the interpreter."""
        return 6.0 * self.floor_s

    @property
    def busy_s(self) -> float:
        """Heartbeats without progress, of a rank that is not blocked."""
        return self.setup_s * 10.0 if self.step_s is None else 10.0 * self.silent_s


class Ending(StrEnum):
    """How a call ended: with an answer, an error of the user, or without its worker."""

    ANSWER = "answer"
    ERROR = "error"
    KILLED = "killed"
    HUNG = "hung"


@dataclass
class WatchedCall:
    """A call to one rank; ``setup`` if it only prepares for the work.

    Attributes:
        beat: the last heartbeat.
        heard, moved: time of the last heartbeat, and of the last progress (time.monotonic()).
    """

    worker: Worker
    future: Future[Any]
    setup: bool = False
    beat: Heartbeat = field(default_factory=Heartbeat)
    heard: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)

    def listen(self, beat: Heartbeat, now: float) -> None:
        if beat.beats != self.beat.beats:
            self.heard = now
        if beat.progress != self.beat.progress:
            self.moved = now
        self.beat = beat

    def hangs(self, timeouts: HangTimeouts, now: float, fault_at: float | None) -> bool:
        """Whether its worker hangs; ``fault_at`` is when the first fault was seen."""
        silent, still = now - self.heard, now - self.moved
        setup = self.setup or self.beat.phase == WorkerPhase.SETUP
        if min(silent, still) > (timeouts.setup_s if setup else timeouts.silent_s):
            return True
        if self.beat.blocked:
            return fault_at is not None and min(still, now - fault_at) > GRACE_S
        return not setup and still > timeouts.busy_s


@dataclass(frozen=True)
class CallOutcome:
    """How a call ended.

    Attributes:
        value: the answer, or the error.
        reason: a line on a fault.
    """

    rank: int
    call: WatchedCall
    ending: Ending
    value: Any = None
    reason: str = ""


class Watchdog:
    """Calls that are being watched, at most one a rank.

    Args:
        store: where heartbeats are.
        floor_s: the least limit on a hang.

    Attributes:
        timeouts: change with the measured time of a step.
        calls: those that have not ended.
        beats: the last heartbeat of each rank.
        poll_s: how long :meth:`poll` waits.
        fault_at: since when ranks that wait for others should notice a fault (time.monotonic());
            None without.
    """

    def __init__(self, store: TCPStore, floor_s: float) -> None:
        self.store, self.timeouts = store, HangTimeouts(floor_s)
        self.calls: dict[int, WatchedCall] = {}
        self.beats: dict[int, Heartbeat] = {}
        self.poll_s = POLL_S
        self.fault_at: float | None = None
        self._polled: float | None = None

    def add(self, rank: int, call: WatchedCall) -> None:
        assert rank not in self.calls
        self.calls[rank] = call

    def poll(self, also: Iterable[Future[Any]] = ()) -> list[CallOutcome]:
        """Wait until a call ends (or a future in ``also`` does), but not long.

        Returns:
            the calls that have ended. Hung workers are killed here; their calls are among them.
        """
        wait([c.future for c in self.calls.values()] + [*also], self.poll_s, FIRST_COMPLETED)
        now = time.monotonic()
        self._forgive(now)
        ended = [rank for rank, call in self.calls.items() if call.future.done()]
        if self.calls:  # after that: what a rank reported before it answered is known
            names = [call.worker.name for call in self.calls.values()]
            for rank, beat in zip(self.calls, read_heartbeats(self.store, names), strict=True):
                self.calls[rank].listen(beat, now)
                self.beats[rank] = beat
        outcomes = [_outcome(rank, self.calls.pop(rank)) for rank in ended]
        for rank in [rank for rank, call in self.calls.items() if self._hangs(call, now)]:
            call = self.calls.pop(rank)
            call.worker.kill()
            reason = f"no progress for {now - call.moved:.1f} s"
            outcomes.append(CallOutcome(rank, call, Ending.HUNG, reason=reason))
        return outcomes

    def _forgive(self, now: float) -> None:
        """Where this process itself did not run for a while, it could hear no worker."""
        asleep = 0.0 if self._polled is None else now - self._polled - self.poll_s
        self._polled = now
        if asleep > 1.0:
            for call in self.calls.values():
                call.heard = min(now, call.heard + asleep)
                call.moved = min(now, call.moved + asleep)

    def _hangs(self, call: WatchedCall, now: float) -> bool:
        if call.hangs(self.timeouts, now, self.fault_at):
            return True
        # All wait, for each other: a link between them is down. No rank is better than another.
        still = min(now - c.moved for c in self.calls.values())
        stuck = all(c.beat.blocked for c in self.calls.values())
        return stuck and still > 3 * self.timeouts.silent_s


def _outcome(rank: int, call: WatchedCall) -> CallOutcome:
    error = call.future.exception()
    if error is None:
        return CallOutcome(rank, call, Ending.ANSWER, call.future.result())
    if isinstance(error, WorkerDiedError):
        return CallOutcome(rank, call, Ending.KILLED, reason=str(error))
    return CallOutcome(rank, call, Ending.ERROR, error)
