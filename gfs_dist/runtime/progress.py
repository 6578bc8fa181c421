"""What a caller sees of a search, a map or a group task: how far it is, what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gfs_dist.runtime.event_log import Row
from gfs_dist.selection.path import GreedyPath


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        phase: "start" (workers), "setup" (objectives), "search" or "recovering".
        path: picks made so far; the coordinator goes on writing to it, so copy what you keep.
        steps_per_s: over the last seconds; 0.0 before the second report.
        num_ranks: ranks at work.
        events: rows for ``events.jsonl`` that are new since the last report.
    """

    phase: str
    path: GreedyPath
    steps_per_s: float
    num_ranks: int
    generation: int = 0
    events: tuple[Row, ...] = ()

    @property
    def num_kept(self) -> int:
        """Distinct picks so far."""
        return self.path.num_kept


@dataclass(frozen=True)
class SearchResult:
    """The end of a search.

    Attributes:
        path: the picks; the same for any number of ranks and faults.
        timing: seconds; see :func:`gfs_dist.runtime.timing.summary`.
        faults: one row each: time (seconds since 1970), rank, kind ("killed", "hung" or
            "collective"), step (picks made by then), recovered_s (from its detection to the first
            new step), detected_s (from a scheduled fault to its detection, else None), reason.
        events: one row each: time event generation rank pid host step.
    """

    path: GreedyPath
    timing: Row
    faults: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class MapProgress:
    """How far a map is.

    Attributes:
        done, total: items.
        items_per_s: over the last items; 0.0 before the second.
        num_ranks: workers that are up.
        events: rows for ``events.jsonl`` that are new since the last report.
    """

    done: int
    total: int
    items_per_s: float
    num_ranks: int
    generation: int = 0
    events: tuple[Row, ...] = ()


@dataclass(frozen=True)
class MapResult(Sequence[Any]):
    """What a task returned for each item, in the order of items, and what that took.

    Attributes:
        values: one an item; also to be had by iterating over this object or indexing it.
        timing: seconds; ``setup_s`` (starting workers), ``steps_s`` (all items, wall time), and a
            row a rank: items done, setup_s, compute_s, wait_s (neither).
        faults: as in :class:`SearchResult`; ``step`` is the place of the item that was lost, None
            if there was none; ``recovered_s`` ends when the item is done, or the worker ready.
        events: as there; the ``step`` of a row is the place of the item that it is about.
    """

    values: list[Any]
    timing: Row
    faults: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: Any) -> Any:
        return self.values[place]


@dataclass(frozen=True)
class GroupProgress:
    """How far a group task is.

    Attributes:
        phase: "start" (workers), "setup", "work" or "recovering".
        step: the last that rank 0 ticked.
        values: (step, value) as rank 0 ticked them, new since the last report; after a fault
            steps are told again from where the task went on.
        steps_per_s: over the last seconds; 0.0 before the second report.
        num_ranks: ranks at work.
        events: rows for ``events.jsonl`` that are new since the last report.
    """

    phase: str
    step: int
    values: tuple[tuple[int, Any], ...]
    steps_per_s: float
    num_ranks: int
    generation: int = 0
    events: tuple[Row, ...] = ()


@dataclass(frozen=True)
class GroupResult:
    """The end of a group task.

    Attributes:
        value: what rank 0 returned.
        timing: as in :class:`SearchResult`.
        faults: as there; ``step`` is the last that any rank had ticked.
        events: as there.
    """

    value: Any
    timing: Row
    faults: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)


OnProgress = Callable[[Progress], None]
OnDone = Callable[[int, Any, MapProgress], None]
OnGroupProgress = Callable[[GroupProgress], None]
