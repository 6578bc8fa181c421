"""The record of one search, map or group task: events for ``events.jsonl``, faults, and speed."""

from __future__ import annotations

import math
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar, cast

from torch.distributed import TCPStore

from gfs_dist.records import Event, EventKind, FaultRow
from gfs_dist.runtime.fault_injection import COORDINATOR, Fault
from gfs_dist.runtime.heartbeat import fault_key
from gfs_dist.runtime.progress import Phase, WorkProgress

TASK_EVENT_PERIOD_S = 1.0  # training may take days
P = TypeVar("P", bound=WorkProgress)


class EventLog:
    """Events and faults of one search, map or group task, and the times of its last steps.

    Args:
        injected: scheduled faults (tests); those of the coordinator are carried out here.
        store: where workers note the time of theirs; None without workers.
    """

    def __init__(self, injected: Sequence[Fault] = (), store: TCPStore | None = None) -> None:
        self.generation = self.num_ranks = self.step = 0
        self.events: list[Event] = []
        self.faults: list[FaultRow] = []
        self._reported = 0
        self._noted = -math.inf
        self._open: list[FaultRow] = []
        self._marks: deque[tuple[float, int]] = deque(maxlen=50)
        self._fatal = [fault for fault in injected if fault.rank == COORDINATOR]
        self._store = store

    def begin(self, generation: int, num_ranks: int) -> None:
        """A generation starts to work; the speed of the last one is forgotten."""
        self.generation, self.num_ranks = generation, num_ranks
        self._marks.clear()

    def event(self, event: EventKind, rank: int | None = None, **more: Any) -> None:
        row = {"time": time.time(), "event": event, "generation": self.generation, "rank": rank}
        full = {**row, "pid": None, "host": None, "step": self.step, **more}
        self.events.append(cast(Event, full))

    def reach(self, step: int) -> None:
        self.step = step
        self._marks.append((time.monotonic(), step))

    def note_step(self, period_s: float = 0.0) -> None:
        """Add a row on the step of rank 0, at most one in ``period_s``."""
        if time.monotonic() - self._noted >= period_s:
            self._noted = time.monotonic()
            self.event("step", rank=0)

    def since_step_s(self) -> float:
        """Seconds since the last step was noted; infinite before the first."""
        return time.monotonic() - self._marks[-1][0] if self._marks else math.inf

    def steps_per_s(self) -> float:
        """Steps per second over the last ones noted."""
        if len(self._marks) < 2:
            return 0.0
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - began) if ended > began else 0.0

    def step_s(self) -> float | None:
        """Median seconds a step over the last ones noted; None before the second."""
        times = [(b - a) / (k - j) for (a, j), (b, k) in pairwise(self._marks) if k > j]
        return statistics.median(times) if times else None

    def report(
        self, callback: Callable[[P], None] | None, kind: type[P], phase: Phase, **more: Any
    ) -> None:
        """Call ``callback`` with progress of ``kind`` and the rows that are new since the last."""
        if callback is not None:
            events, self._reported = tuple(self.events[self._reported :]), len(self.events)
            callback(
                kind(
                    phase=phase,
                    step=self.step,
                    steps_per_s=self.steps_per_s(),
                    num_ranks=self.num_ranks,
                    generation=self.generation,
                    events=events,
                    **more,
                )
            )
        if any(f.generation == self.generation and self.step >= f.step for f in self._fatal):
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def recovering(self) -> bool:
        """Whether work has not gone on yet after a fault."""
        return bool(self._open)

    def fault(
        self,
        rank: int,
        process: dict[str, Any],
        kind: str,
        reason: str,
        step: int | None,
        detected: float | None = None,
    ) -> None:
        """Rank ``rank``, which was ``process``, failed at ``step``.

        Args:
            detected: time.time() of its detection, if not now.
        """
        detected = time.time() if detected is None else detected
        key, detected_s = fault_key(self.generation, rank), None
        if self._store is not None and self._store.check([key]):
            detected_s = detected - float(self._store.get(key))
            self._store.delete_key(key)
        row: FaultRow = {
            "time": detected,
            "rank": rank,
            "kind": kind,
            "step": step,
            "recovered_s": None,
            "detected_s": detected_s,
            "reason": reason,
        }
        self.faults.append(row)
        self._open.append(row)
        self.event("fault", rank, step=step, kind=kind, **process)

    def recovered(
        self, which: Callable[[FaultRow], bool] | None = None, step: int | None = None
    ) -> None:
        """Work has gone on after all faults, or those for which ``which`` holds.

        Args:
            step: of the event, if not that of the work.
        """
        for row in [row for row in self._open if which is None or which(row)]:
            self._open.remove(row)
            row["recovered_s"] = time.time() - row["time"]
            self.event("recovered", row["rank"], step=self.step if step is None else step)

    def last_fault(self) -> str:
        """The last fault in words."""
        row = self.faults[-1]
        return f"rank {row['rank']} {row['kind']}, {row['reason']}"
