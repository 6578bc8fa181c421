"""What went wrong while workers worked, and how long it cost."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch.distributed import TCPStore

from gfs_dist.records import FaultRow
from gfs_dist.runtime.event_log import Journal, Row
from gfs_dist.runtime.heartbeat import fault_key


class FaultLog:
    """Rows on faults, for the result of a job; the journal gets their events.

    Args:
        store: where scheduled faults note their time.
        journal: of the job.
    """

    def __init__(self, store: TCPStore, journal: Journal) -> None:
        self.store, self.journal = store, journal
        self.rows: list[FaultRow] = []
        self._open: list[FaultRow] = []

    @property
    def recovering(self) -> bool:
        """Whether what was lost is not made good yet."""
        return bool(self._open)

    def note(
        self,
        rank: int,
        who: Row,
        kind: str,
        reason: str,
        step: int | None,
        detected: float | None = None,
    ) -> None:
        """Rank ``rank``, which was ``who``, failed at ``step``; ``detected`` is time.time() if not
        now.
        """
        detected = time.time() if detected is None else detected
        row: FaultRow = {
            "time": detected,
            "rank": rank,
            "kind": kind,
            "step": step,
            "recovered_s": None,
            "detected_s": self._since_strike_s(rank, detected),
            "reason": reason,
        }
        self.rows.append(row)
        self._open.append(row)
        self.journal.event("fault", rank, step=step, kind=kind, **who)

    def recovered(
        self, which: Callable[[FaultRow], bool] | None = None, step: int | None = None
    ) -> None:
        """What was lost is made good, or that part of it for which ``which`` holds; ``step`` is
        that of the event, if not the journal's.
        """
        step = self.journal.step if step is None else step
        for row in [row for row in self._open if which is None or which(row)]:
            self._open.remove(row)
            row["recovered_s"] = time.time() - row["time"]
            self.journal.event("recovered", row["rank"], step=step)

    def _since_strike_s(self, rank: int, detected: float) -> float | None:
        key = fault_key(self.journal.generation, rank)
        if not self.store.check([key]):
            return None
        struck = float(self.store.get(key))
        self.store.delete_key(key)
        return detected - struck
