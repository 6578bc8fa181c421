"""Workers that search, do items, or work as a group: the runtimes "local" and "ray"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from gfs_dist.runtime.backends.base import Launcher
from gfs_dist.runtime.crew import Crew
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.map import Mapping
from gfs_dist.runtime.progress import (
    GroupResult,
    MapResult,
    OnDone,
    OnGroupProgress,
    OnProgress,
    SearchResult,
)
from gfs_dist.runtime.search import Searching
from gfs_dist.runtime.spec import GroupTask, Problem, RuntimeSpec, Task
from gfs_dist.runtime.together import Together
from gfs_dist.runtime.watchdog import Watch
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop


class WorkersRuntime:
    """Workers that stay for many jobs; leave the context to end them.

    A problem or task that is the same object as in the last job of its kind is not sent again, so
    do not change one in between.

    Args:
        spec: how many, where, how patient.
        launcher: starts them; theirs to be closed here.
        faults: to be carried out (tests).
    """

    def __init__(self, spec: RuntimeSpec, launcher: Launcher, faults: Sequence[Fault] = ()) -> None:
        self.spec = spec
        self.crew = Crew(spec, launcher, faults)

    @property
    def num_ranks(self) -> int:
        """Ranks that a job will have, if no worker is lost."""
        return self.spec.workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, at once and whatever they do."""
        self.crew.close()

    def search(
        self,
        problem: Problem,
        stop: Stop,
        partition: Partition | None = None,
        *,
        path: GreedyPath | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        """Greedy forward selection over all workers.

        Args:
            problem: what to search; the same object again keeps what workers hold of it.
            stop: when to end.
            partition: candidates of each rank; None for contiguous parts.
            path: picks already made; replayed and checked.
            on_progress: called in this thread.

        Raises:
            InputError: what a rank refused, as it was raised there.
            WorkersLostError: three generations in a row made no step.
        """
        path = path or GreedyPath(problem.num_candidates)
        cargo = self.crew.cargo["search"]
        parts = partition or Partition.contiguous(problem.num_candidates, self.num_ranks)
        parts.require(problem.num_candidates)
        search = Searching(self.crew, cargo, stop, parts, path.prefix(len(path)), on_progress)
        with self._job("search", problem, search.watch):
            return search.result()

    def map(self, task: Task, items: Sequence[Any], on_done: OnDone | None = None) -> MapResult:
        """Do every item, each by any one worker: an idle one takes the next.

        Args:
            task: what is done; the same object again is not sent again.
            items: small, as they travel to workers by pickle.
            on_done: called with place, result and :class:`MapProgress` of each item as it is
                done, in this thread.

        Returns:
            results in the order of ``items``.

        Raises:
            WorkersLostError: an item lost three workers in a row, or nobody is left.
            Exception: what the task raised, as it was raised there; on_done likewise.
        """
        mapping = Mapping(self.crew, self.crew.cargo["map"], items, on_done)
        with self._job("map", task, mapping.watch):
            return mapping.result()

    def run_group(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        """Let all ranks do ``task`` at once, in one process group.

        After a fault it is started again in a new group, with fewer ranks if a lost one cannot be
        replaced; it goes on from its own checkpoint.

        Args:
            task: what is done; the same object again is not sent again.
            on_progress: called in this thread.

        Raises:
            WorkersLostError: three generations in a row came no further than those before.
            Exception: what the task raised on any rank, as it was raised there.
        """
        together = Together(self.crew, self.crew.cargo["group"], on_progress)
        with self._job("group", task, together.watch):
            return together.result()

    @contextmanager
    def _job(self, kind: str, thing: Any, watch: Watch) -> Iterator[None]:
        """One job; if it is broken off, nobody goes on with it."""
        self.crew.cargo[kind].put(thing)
        self.crew.job += 1
        try:
            yield
        except BaseException:
            self.crew.drop_busy(watch)
            raise
