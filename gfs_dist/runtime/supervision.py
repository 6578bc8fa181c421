"""Watches calls to workers until each has answered, died, or was found to hang.

A hang is a lack of progress. A worker whose signs of life stop, but whose steps go on, is left
alone; so is one that waits for others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from torch.distributed import TCPStore

from gfs_dist.runtime.launcher import Worker, WorkerDiedError
from gfs_dist.runtime.pulse import Beat, beat_key
from gfs_dist.runtime.worker import Interrupted

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
    """A call to one rank that is being watched."""

    worker: Worker
    future: Future[Any]
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
        if self.beat.phase in ("idle", "setup"):
            return min(silent, still) > patience.setup_s
        if min(silent, still) > patience.silent_s:
            return True
        if self.beat.blocked:
            return trouble is not None and min(still, now - trouble) > GRACE_S
        return still > patience.busy_s


@dataclass
class Verdict:
    """What became of the calls, by rank.

    Attributes:
        values: answers.
        dead: "killed" or "hung".
        reasons: a line on each fault.
        errors: errors of the user, to be raised.
        trouble: time of the first fault (time.time()), None without.
    """

    values: dict[int, Any] = field(default_factory=dict)
    dead: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)
    trouble: float | None = None


class Watch:
    """One set of calls.

    Args:
        store: where signs of life are.
        calls: by rank.
        patience: limits; may change meanwhile.
        on_poll: called between waits, with this object; sets ``poll_s``.
        on_death: called at once with the rank that was lost.
    """

    def __init__(
        self,
        store: TCPStore,
        calls: Mapping[int, Call],
        patience: Patience,
        on_poll: Callable[[Watch], None],
        on_death: Callable[[int, str], None],
    ) -> None:
        self.store = store
        self.calls = dict(calls)
        self.pending = dict(calls)
        self.patience = patience
        self.on_poll, self.on_death = on_poll, on_death
        self.verdict = Verdict()
        self.poll_s = POLL_S
        self._trouble: float | None = None
        self._looked = time.monotonic()

    def run(self) -> Verdict:
        """Until no call is pending."""
        while self.pending:
            futures = [call.future for call in self.pending.values()]
            wait(futures, timeout=self.poll_s, return_when=FIRST_COMPLETED)
            now = time.monotonic()
            self._forgive(now)
            self._listen(now)
            for rank in [r for r, call in self.pending.items() if call.future.done()]:
                self._collect(rank, self.pending.pop(rank).future)
            self.on_poll(self)
            for rank, call in self.pending.items():
                if rank not in self.verdict.dead and self._hangs(call, now):
                    self._lost(rank, "hung", f"no progress for {now - call.moved:.1f} s")
                    call.worker.kill()
        return self.verdict

    def _listen(self, now: float) -> None:
        if not self.pending:
            return
        keys = [beat_key(call.worker.name) for call in self.pending.values()]
        texts = self.store.multi_get(keys)
        for call, text in zip(self.pending.values(), texts, strict=True):
            call.listen(Beat(**json.loads(text)), now)

    def _forgive(self, now: float) -> None:
        """Where this process itself did not run for a while, nobody could be heard."""
        asleep, self._looked = now - self._looked - self.poll_s, now
        if asleep > 1.0:
            for call in self.pending.values():
                call.heard += asleep
                call.moved += asleep

    def _hangs(self, call: Call, now: float) -> bool:
        if call.overdue(self.patience, now, self._trouble):
            return True
        # All wait, for each other: a link between them is down. No rank is better than another.
        still = min(now - c.moved for c in self.pending.values())
        stuck = all(c.beat.blocked for c in self.pending.values())
        return stuck and still > 3 * self.patience.silent_s

    def _collect(self, rank: int, future: Future[Any]) -> None:
        error = future.exception()
        if isinstance(error, WorkerDiedError):
            self._lost(rank, "killed", str(error))
        elif error is not None:
            self._note()
            self.verdict.errors[rank] = error
        else:
            value = self.verdict.values[rank] = future.result()
            if isinstance(value, Interrupted):
                self._note()
                self.verdict.reasons.setdefault(rank, value.reason)

    def _lost(self, rank: int, kind: str, reason: str) -> None:
        if rank in self.verdict.dead:
            return
        self._note()
        self.verdict.dead[rank] = kind
        self.verdict.reasons[rank] = reason
        self.on_death(rank, kind)

    def _note(self) -> None:
        if self._trouble is None:
            self._trouble = time.monotonic()
            self.verdict.trouble = time.time()
