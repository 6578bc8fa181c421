"""Ranks, worker processes, Ray actors, process groups, supervision, recovery.

with open_runtime(RuntimeSpec(kind="local", workers=2)) as runtime:
    result = runtime.search(problem, Stop(steps=200))
    values = runtime.map(task, items)
    trained = runtime.run_group(group_task).value
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

from gfs_dist.runtime.backends.local import LocalLauncher
from gfs_dist.runtime.fault_injection import Fault, from_environment
from gfs_dist.runtime.graph import Graph, make_graph
from gfs_dist.runtime.in_process import InProcessRuntime
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
    GroupTask,
    Problem,
    RuntimeSpec,
    Task,
    Tick,
)
from gfs_dist.runtime.worker_runtime import WorkersRuntime
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop

__all__ = [
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
        problem: Problem,
        stop: Stop,
        partition: Partition | None = None,
        *,
        path: GreedyPath | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        """See :meth:`gfs_dist.runtime.worker_runtime.WorkersRuntime.search`."""
        ...

    def map(self, task: Task, items: Sequence[Any], on_done: OnDone | None = None) -> MapResult:
        """See :meth:`gfs_dist.runtime.worker_runtime.WorkersRuntime.map`."""
        ...

    def run_group(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        """See :meth:`gfs_dist.runtime.worker_runtime.WorkersRuntime.run_group`."""
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
        return InProcessRuntime(spec, faults)
    if spec.kind == "local":
        return WorkersRuntime(spec, LocalLauncher(spec.device), faults)
    from gfs_dist.runtime.backends.ray import RayLauncher  # Ray: half a second to import
    from gfs_dist.runtime.prometheus import MeteredRuntime  # after it: see what it sets before Ray

    return MeteredRuntime(spec, RayLauncher(spec), faults)
