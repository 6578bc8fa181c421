"""The runtime that callers hold: searches, maps and group tasks, reported to observers.

What does the work is an executor: this process (:mod:`gfs_dist.runtime.in_process`), workers, or
one of the caller's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, Self, TypeVar

from gfs_dist.runtime.backends.base import Launcher
from gfs_dist.runtime.backends.local import LocalLauncher
from gfs_dist.runtime.fault_injection import Fault, from_environment
from gfs_dist.runtime.group import SearchRun, TaskRun
from gfs_dist.runtime.in_process import InProcessExecutor
from gfs_dist.runtime.map import MapRun
from gfs_dist.runtime.progress import (
    GroupResult,
    MapResult,
    OnGroupProgress,
    OnItem,
    OnProgress,
    RuntimeObserver,
    SearchResult,
    Work,
    WorkProgress,
    WorkResult,
)
from gfs_dist.runtime.spec import GroupTask, Problem, RuntimeSpec, SearchJob, Task
from gfs_dist.runtime.worker_pool import WorkerPool
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop

P = TypeVar("P", bound=WorkProgress)
R = TypeVar("R", bound=WorkResult)


class Executor(Protocol):
    """Does the work of a :class:`Runtime`; ``report`` is None where nothing listens."""

    @property
    def num_ranks(self) -> int: ...

    def run_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult: ...

    def run_map(self, task: Task, items: Sequence[Any], report: OnItem | None) -> MapResult: ...

    def run_task(self, task: GroupTask, report: OnGroupProgress | None) -> GroupResult: ...

    def close(self) -> None: ...


class Runtime:
    """Ranks that stay for many jobs; a context manager that ends them.

    A problem or task that is the same object as in the last job of its kind is not sent to
    workers again, so do not change one in between.

    Args:
        executor: does the work; closed with the runtime.

    Attributes:
        executor: as given.
        observers: get reports of all work; may change between jobs.
    """

    def __init__(self, executor: Executor, observers: Sequence[RuntimeObserver] = ()) -> None:
        self.executor = executor
        self.observers = [*observers]

    @property
    def num_ranks(self) -> int:
        """Ranks that a job will have, if no worker is lost."""
        return self.executor.num_ranks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers at once."""
        self.executor.close()

    def search(
        self,
        problem: Problem,
        stop: Stop,
        partition: Partition | None = None,
        *,
        path: GreedyPath | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        """Greedy forward selection by all ranks.

        Args:
            problem: what to search; the same object again keeps what workers hold of it.
            stop: when to end.
            partition: candidates of each rank; None for contiguous parts.
            path: picks already made; replayed and verified.
            on_progress: called in this thread.

        Raises:
            InputError: what a rank refused, as it was raised there.
            WorkersLostError: three generations in a row made no step.
        """
        path = path or GreedyPath(problem.num_candidates)
        job = SearchJob(problem, stop, partition, path.prefix(len(path)))
        run = partial(self.executor.run_search, job)
        return self._observed(Work.SEARCH, run, on_progress, len(path))

    def map(self, task: Task, items: Sequence[Any], on_progress: OnItem | None = None) -> MapResult:
        """Do every item, each by any one worker: an idle one takes the next.

        Args:
            task: what is done; the same object again is not sent again.
            items: small, as they travel to workers by pickle.
            on_progress: called for each item as it is done, in this thread.

        Returns:
            results in the order of ``items``.

        Raises:
            WorkersLostError: an item lost three workers in a row, or no worker is left.
            Exception: what the task raised, as it was raised there; on_progress likewise.
        """
        return self._observed(Work.MAP, partial(self.executor.run_map, task, items), on_progress)

    def run_group(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        """Let all ranks do ``task`` at once, in one process group.

        After a fault it is started again in a new group, with fewer ranks if a lost one cannot be
        replaced; it resumes from its own checkpoint.

        Args:
            task: what is done; the same object again is not sent again.
            on_progress: called in this thread.

        Raises:
            WorkersLostError: three generations in a row made no new step.
            Exception: what the task raised on any rank, as it was raised there.
        """
        return self._observed(Work.GROUP, partial(self.executor.run_task, task), on_progress)

    def _observed(
        self,
        work: Work,
        run: Callable[[Callable[[P], None] | None], R],
        on_progress: Callable[[P], None] | None,
        step: int = 0,
    ) -> R:
        """``run`` work from ``step``; observers, then the caller, get its progress."""
        observers = [*self.observers]

        def report(progress: P) -> None:
            for observer in observers:
                observer.on_progress(work, progress)
            if on_progress is not None:
                on_progress(progress)

        for observer in observers:
            observer.on_start(work, step)
        result = run(report if observers else on_progress)
        for observer in observers:
            observer.on_result(work, result)
        return result


class WorkerExecutor:
    """Workers that stay for many jobs.

    Args:
        spec: how many, where, how patient.
        launcher: starts them; closed with the executor.
        faults: to be carried out (tests).
    """

    def __init__(self, spec: RuntimeSpec, launcher: Launcher, faults: Sequence[Fault] = ()) -> None:
        self.num_ranks = spec.workers
        self.pool = WorkerPool(spec, launcher, faults)

    def close(self) -> None:
        self.pool.close()

    def run_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult:
        run = SearchRun(self.pool, job, report)
        with self.pool.working(Work.SEARCH, job.problem, run.watchdog):
            return run.result()

    def run_map(self, task: Task, items: Sequence[Any], report: OnItem | None) -> MapResult:
        run = MapRun(self.pool, items, report)
        with self.pool.working(Work.MAP, task, run.watchdog):
            return run.result()

    def run_task(self, task: GroupTask, report: OnGroupProgress | None) -> GroupResult:
        run = TaskRun(self.pool, report)
        with self.pool.working(Work.GROUP, task, run.watchdog):
            return run.result()


def open_runtime(
    spec: RuntimeSpec,
    faults: Sequence[Fault] = (),
    observers: Sequence[RuntimeObserver] = (),
) -> Runtime:
    """Start the workers that ``spec`` describes, without waiting for them.

    Args:
        spec: kind and number of workers.
        faults: to be carried out, besides those of ``GFS_FAULTS`` (tests).
        executor: as given.
        observers: get reports of all work; on a Ray cluster Prometheus metrics are added.

    Raises:
        InputError: something that this machine or cluster cannot offer.
    """
    faults = [*faults, *from_environment()]
    if spec.kind == "none":
        return Runtime(InProcessExecutor(spec, faults), observers)
    if spec.kind == "local":
        return Runtime(WorkerExecutor(spec, LocalLauncher(spec.device), faults), observers)
    from gfs_dist.runtime.backends.ray import RayLauncher  # Ray: half a second to import
    from gfs_dist.runtime.prometheus import PrometheusMetrics  # after what that sets before Ray

    executor = WorkerExecutor(spec, RayLauncher(spec), faults)
    return Runtime(executor, [PrometheusMetrics(), *observers])
