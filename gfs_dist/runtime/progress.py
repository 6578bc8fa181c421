"""Progress and results of a search, a map or a group task, as callers and observers get them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gfs_dist.records import Event, FaultRow, Timing
from gfs_dist.selection.path import GreedyPath


class Work(StrEnum):
    """Kinds of work that a runtime does."""

    SEARCH = "search"
    MAP = "map"
    GROUP = "group"


class Phase(StrEnum):
    """How far the ranks are: before, in or after the steps of the work itself."""

    START = "start"
    """Workers start."""
    SETUP = "setup"
    """Objectives are built."""
    SEARCH = "search"
    WORK = "work"
    """Items or a group task are done."""
    RECOVERING = "recovering"
    """A lost rank is replaced."""


@dataclass(frozen=True, kw_only=True)
class WorkProgress:
    """How far any work is.

    Attributes:
        step: picks made, items done, or the last step that rank 0 of a group task ticked.
        steps_per_s: over the last seconds; 0.0 before the second report.
        num_ranks: ranks at work.
        events: rows for ``events.jsonl`` that are new since the last report.
    """

    phase: Phase
    step: int
    steps_per_s: float = 0.0
    num_ranks: int = 1
    generation: int = 0
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Progress(WorkProgress):
    """How far a search is; the coordinator keeps extending ``path``, so copy what you keep."""

    path: GreedyPath

    @property
    def num_kept(self) -> int:
        return self.path.num_kept


@dataclass(frozen=True, kw_only=True)
class MapProgress(WorkProgress):
    """An item of a map is done.

    Attributes:
        place, value: of the item, and what the task returned for it.
        total: items.
    """

    place: int
    value: Any
    total: int


@dataclass(frozen=True, kw_only=True)
class GroupProgress(WorkProgress):
    """How far a group task is.

    Attributes:
        values: (step, value) as rank 0 ticked them, new since the last report; after a fault
            steps are reported again from where the task went on.
    """

    values: tuple[tuple[int, Any], ...]


@dataclass(frozen=True, kw_only=True)
class WorkResult:
    """The end of any work.

    Attributes:
        timing: see :func:`gfs_dist.runtime.resources.group_timing`; of a map ``setup_s`` is the
            start of workers, and a rank's ``wait_s`` what setting up and items leave.
        faults: one row each; ``step`` is how far the work was: picks made, the last step that any
            rank had ticked, or the place of the item that was lost, None if there was none.
            ``recovered_s`` ends with the first new step, the item, or a worker that is ready.
        events: all rows; the ``step`` of a map's row is the place of its item.
    """

    timing: Timing
    faults: list[FaultRow] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SearchResult(WorkResult):
    """The end of a search; ``path`` is the same for any number of ranks and faults."""

    path: GreedyPath


@dataclass(frozen=True, kw_only=True)
class MapResult(WorkResult, Sequence[Any]):
    """What a task returned for each item, in the order of items; a sequence of these values."""

    values: list[Any]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: Any) -> Any:
        return self.values[place]


@dataclass(frozen=True, kw_only=True)
class GroupResult(WorkResult):
    """The end of a group task; ``value`` is what rank 0 returned."""

    value: Any


class RuntimeObserver:
    """Follows the work of a runtime, in the caller's thread; override what is needed."""

    def on_start(self, work: Work, step: int) -> None:
        """A search, map or group task begins at ``step`` (a search may continue a path)."""

    def on_progress(self, work: Work, progress: WorkProgress) -> None:
        """Steps were made, or a worker started, failed or was replaced."""

    def on_result(self, work: Work, result: WorkResult) -> None:
        """It is finished. Not called for one that raises."""


OnProgress = Callable[[Progress], None]
OnItem = Callable[[MapProgress], None]
OnGroupProgress = Callable[[GroupProgress], None]
