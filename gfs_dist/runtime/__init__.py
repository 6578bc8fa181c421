"""Ranks, worker processes, Ray actors, process groups, supervision, recovery.

with open_runtime(RuntimeSpec(kind="local", workers=2)) as runtime:
    result = runtime.search(problem, Stop(steps=200))
    values = runtime.map(task, items)
    trained = runtime.together(group_task).value
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

from gfs_dist.runtime.alone import AloneRuntime
from gfs_dist.runtime.coordinator import WorkersRuntime
from gfs_dist.runtime.faults import Fault, from_environment
from gfs_dist.runtime.graph import Graph, make_graph
from gfs_dist.runtime.local import LocalLauncher
from gfs_dist.runtime.peers import NoPeers, Peers
from gfs_dist.runtime.progress import (
    GroupProgress,
    GroupResult,
    MapProgress,
    MapResult,
    OnDone,
    OnGroupProgress,
    OnProgress,
    Progress,
    SearchResult,
)
from gfs_dist.runtime.spec import (
    AnyProblem,
    GroupTask,
    Problem,
    RuntimeSpec,
    SharedProblem,
    Task,
    Tick,
)
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import Path
from gfs_dist.selection.stop import Stop

__all__ = [
    "AnyProblem",
    "Fault",
    "Graph",
    "GroupProgress",
    "GroupResult",
    "GroupTask",
    "MapProgress",
    "MapResult",
    "NoPeers",
    "Peers",
    "Problem",
    "Progress",
    "Runtime",
    "RuntimeSpec",
    "SearchResult",
    "SharedProblem",
    "Task",
    "Tick",
    "make_graph",
    "open_runtime",
]


class Runtime(Protocol):
    """Workers, or none, that search, do items, or work as a group; a context manager."""

    @property
    def num_ranks(self) -> int: ...

    def search(
        self,
        problem: AnyProblem,
        stop: Stop,
        partition: Partition | None = None,
        *,
        path: Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        """See :meth:`gfs_dist.runtime.coordinator.WorkersRuntime.search`."""
        ...

    def map(self, task: Task, items: Sequence[Any], on_done: OnDone | None = None) -> MapResult:
        """See :meth:`gfs_dist.runtime.coordinator.WorkersRuntime.map`."""
        ...

    def together(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        """See :meth:`gfs_dist.runtime.coordinator.WorkersRuntime.together`."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def open_runtime(spec: RuntimeSpec, faults: Sequence[Fault] = ()) -> Runtime:
    """Start the workers that ``spec`` describes, without waiting for them.

    Args:
        spec: kind and number of workers.
        faults: to be carried out, besides those of ``GFS_FAULTS`` (tests).

    Raises:
        InputError: something that this machine or cluster cannot offer.
    """
    faults = [*faults, *from_environment()]
    if spec.kind == "none":
        return AloneRuntime(spec, faults)
    if spec.kind == "local":
        return WorkersRuntime(spec, LocalLauncher(spec.device), faults)
    from gfs_dist.runtime.metered import MeteredRuntime  # after it: see what it sets before Ray
    from gfs_dist.runtime.ray_actors import RayLauncher  # Ray: half a second to import

    return MeteredRuntime(spec, RayLauncher(spec), faults)
