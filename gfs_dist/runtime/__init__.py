"""Ranks, worker processes, Ray actors, process groups, supervision, recovery.

with open_runtime(RuntimeSpec(kind="local", workers=2)) as runtime:
    result = runtime.search(problem, Stop(steps=200))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from gfs_dist.runtime.alone import AloneRuntime
from gfs_dist.runtime.coordinator import WorkersRuntime
from gfs_dist.runtime.faults import Fault, from_environment
from gfs_dist.runtime.graph import Graph, make_graph
from gfs_dist.runtime.local import LocalLauncher
from gfs_dist.runtime.progress import OnProgress, Progress, SearchResult
from gfs_dist.runtime.spec import Problem, RuntimeSpec
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import Path
from gfs_dist.selection.stop import Stop

__all__ = [
    "Fault",
    "Graph",
    "Problem",
    "Progress",
    "Runtime",
    "RuntimeSpec",
    "SearchResult",
    "make_graph",
    "open_runtime",
]


class Runtime(Protocol):
    """Workers, or none, that search; a context manager."""

    @property
    def num_ranks(self) -> int: ...

    def search(
        self,
        problem: Problem,
        stop: Stop,
        partition: Partition | None = None,
        *,
        path: Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        """See :meth:`gfs_dist.runtime.coordinator.WorkersRuntime.search`."""
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
    from gfs_dist.runtime.ray_actors import RayLauncher  # Ray: half a second to import

    return WorkersRuntime(spec, RayLauncher(spec), faults)
