"""Watches calls to workers: has each answered, died, or does it hang?

A hang is a lack of progress. A worker whose signs of life stop, but whose steps go on, is left
alone; so is one that waits for others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from torch.distributed import TCPStore

from gfs_dist.runtime.backends.base import Worker, WorkerDiedError
from gfs_dist.runtime.heartbeat import Beat, beat_key

POLL_S = 0.05
# After a fault a rank that still waits for others gets this long to notice it.
GRACE_S = 10.0


@dataclass
class Patience:
    """How long is too long, in seconds.

    Attributes:
        floor_s: the least limit.
        step_s: measured time of a step, None while unknown.
    """

    floor_s: float
    step_s: float | None = None

    @property
    def silent_s(self) -> float:
        """Neither a sign of life nor a step: the process does not run."""
        return max(self.floor_s, 20.0 * (self.step_s or 0.0))

    @property
    def setup_s(self) -> float:
        """The same during set-up, where one long call may hold the interpreter."""
        return 6.0 * self.floor_s

    @property
    def busy_s(self) -> float:
        """Signs of life but no step, while nobody is waited for: it turns in circles."""
        return self.setup_s * 10.0 if self.step_s is None else 10.0 * self.silent_s


@dataclass
class Call:
    """A call to one rank that is being watched; ``setup`` if it only prepares for the work."""

    worker: Worker
    future: Future[Any]
    setup: bool = False
    beat: Beat = field(default_factory=Beat)
    heard: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)

    def listen(self, beat: Beat, now: float) -> None:
        """Take a sign of life."""
        if beat.beats != self.beat.beats:
            self.heard = now
        if beat.work != self.beat.work:
            self.moved = now
        self.beat = beat

    def overdue(self, patience: Patience, now: float, trouble: float | None) -> bool:
        """Whether its worker hangs; ``trouble`` is when the first fault was seen."""
        silent, still = now - self.heard, now - self.moved
        setup = self.setup or self.beat.phase == "setup"
        if min(silent, still) > (patience.setup_s if setup else patience.silent_s):
            return True
        if self.beat.blocked:
            return trouble is not None and min(still, now - trouble) > GRACE_S
        return not setup and still > patience.busy_s


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        kind: "answer", "error" (of the user), "killed" or "hung".
        value: the answer, or the error.
        reason: a line on a fault.
    """

    rank: int
    call: Call
    kind: str
    value: Any = None
    reason: str = ""


class Watch:
    """Calls that are being watched, at most one a rank.

    Args:
        store: where signs of life are.
        patience: limits; may change meanwhile.

    Attributes:
        calls: those that have not ended.
        beats: the last sign of life of each rank.
        poll_s: how long :meth:`poll` waits.
        trouble: since when ranks that wait for others should notice a fault
            (time.monotonic()); None without.
    """

    def __init__(self, store: TCPStore, patience: Patience) -> None:
        self.store, self.patience = store, patience
        self.calls: dict[int, Call] = {}
        self.beats: dict[int, Beat] = {}
        self.poll_s = POLL_S
        self.trouble: float | None = None
        self._looked: float | None = None

    def add(self, rank: int, call: Call) -> None:
        """Watch ``call`` too."""
        assert rank not in self.calls
        self.calls[rank] = call

    def expect_trouble(self) -> None:
        """There was a fault: from now on ranks that wait for others are expected to notice."""
        if self.trouble is None:
            self.trouble = time.monotonic()

    def poll(self, also: Iterable[Future[Any]] = ()) -> list[Outcome]:
        """Wait until a call ends (or a future in ``also`` does), but not long.

        Returns:
            the calls that have ended, those of hung workers included, which are killed here.
        """
        wait([c.future for c in self.calls.values()] + [*also], self.poll_s, FIRST_COMPLETED)
        now = time.monotonic()
        self._forgive(now)
        ended = [rank for rank, call in self.calls.items() if call.future.done()]
        self._listen(now)  # after that: what a rank told before it answered is known
        outcomes = [_outcome(rank, self.calls.pop(rank)) for rank in ended]
        for rank in [rank for rank, call in self.calls.items() if self._hangs(call, now)]:
            call = self.calls.pop(rank)
            call.worker.kill()
            reason = f"no progress for {now - call.moved:.1f} s"
            outcomes.append(Outcome(rank, call, "hung", reason=reason))
        return outcomes

    def _listen(self, now: float) -> None:
        if not self.calls:
            return
        keys = [beat_key(call.worker.name) for call in self.calls.values()]
        texts = self.store.multi_get(keys)
        for (rank, call), text in zip(self.calls.items(), texts, strict=True):
            call.listen(Beat(**json.loads(text)), now)
            self.beats[rank] = call.beat

    def _forgive(self, now: float) -> None:
        """Where this process itself did not run for a while, nobody could be heard."""
        asleep = 0.0 if self._looked is None else now - self._looked - self.poll_s
        self._looked = now
        if asleep > 1.0:
            for call in self.calls.values():
                call.heard = min(now, call.heard + asleep)
                call.moved = min(now, call.moved + asleep)

    def _hangs(self, call: Call, now: float) -> bool:
        if call.overdue(self.patience, now, self.trouble):
            return True
        # All wait, for each other: a link between them is down. No rank is better than another.
        still = min(now - c.moved for c in self.calls.values())
        stuck = all(c.beat.blocked for c in self.calls.values())
        return stuck and still > 3 * self.patience.silent_s


def _outcome(rank: int, call: Call) -> Outcome:
    error = call.future.exception()
    if error is None:
        return Outcome(rank, call, "answer", call.future.result())
    if isinstance(error, WorkerDiedError):
        return Outcome(rank, call, "killed", reason=str(error))
    return Outcome(rank, call, "error", error)
