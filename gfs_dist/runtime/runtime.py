"""The runtimes that callers hold: searches, maps and group tasks, reported to observers.

One does all work in this process, the other by workers.
"""

from __future__ import annotations

import json
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar, cast

import torch

from gfs_dist.errors import InputError
from gfs_dist.records import RankTiming, Timing
from gfs_dist.runtime.backends.base import Launcher
from gfs_dist.runtime.backends.local import LocalLauncher
from gfs_dist.runtime.event_log import TASK_EVENT_PERIOD_S, EventLog
from gfs_dist.runtime.fault_injection import Fault, from_environment
from gfs_dist.runtime.group import SearchRun, TaskRun
from gfs_dist.runtime.heartbeat import FeedEntry
from gfs_dist.runtime.map import MapResults, MapRun
from gfs_dist.runtime.progress import (
    GroupProgress,
    GroupResult,
    MapResult,
    OnGroupProgress,
    OnItem,
    OnProgress,
    Phase,
    Progress,
    RuntimeObserver,
    SearchResult,
    Work,
    WorkProgress,
    WorkResult,
)
from gfs_dist.runtime.resources import group_timing, no_time, peak_bytes
from gfs_dist.runtime.spec import GroupTask, NoPeers, Problem, RuntimeSpec, SearchJob, Task
from gfs_dist.runtime.worker_pool import WorkerPool
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop

PERIOD_S = 0.1
"""Between reports on the work of this process."""
P = TypeVar("P", bound=WorkProgress)
R = TypeVar("R", bound=WorkResult)


class Runtime(ABC):
    """Ranks that stay for many jobs; a context manager that ends them.

    A problem or task that is the same object as in the last job of its kind is not sent to
    workers again, so do not change one in between. Subclasses do the work; ``report`` is None
    where nothing listens.

    Attributes:
        num_ranks: that a job will have, if no worker is lost.
        observers: get reports of all work; may change between jobs.
    """

    num_ranks: int

    def __init__(self) -> None:
        self.observers: list[RuntimeObserver] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End all workers at once."""

    @abstractmethod
    def _do_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult: ...

    @abstractmethod
    def _do_map(
        self, task: Task, items: Sequence[Any], keep: bool, report: OnItem | None
    ) -> MapResult: ...

    @abstractmethod
    def _do_group(self, task: GroupTask, report: OnGroupProgress | None) -> GroupResult: ...

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
            partition: candidates of each rank; None for contiguous parts.
            path: picks already made; replayed and verified.
            on_progress: called in this thread.

        Raises:
            InputError: what a rank refused, as it was raised there.
            WorkersLostError: three generations in a row made no step.
        """
        path = path or GreedyPath(problem.num_candidates)
        job = SearchJob(problem, stop, partition, path.prefix(len(path)))
        run = partial(self._do_search, job)
        return self._observed(Work.SEARCH, run, on_progress, len(path))

    def map(
        self,
        task: Task,
        items: Sequence[Any],
        on_progress: OnItem | None = None,
        *,
        keep: bool = False,
    ) -> MapResult:
        """Do every item, each by any one worker: an idle one takes the next.

        Args:
            items: small, as they travel to workers by pickle.
            on_progress: called for each item as it is done, in this thread.
            keep: each rank keeps to its part of the items, as long as it is up: it holds what
                the same places of the last map have left there.

        Returns:
            results in the order of ``items``.

        Raises:
            WorkersLostError: an item lost three workers in a row, or no worker is left.
            Exception: what the task raised, as it was raised there; on_progress likewise.
        """
        return self._observed(Work.MAP, partial(self._do_map, task, items, keep), on_progress)

    def run_group(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        """Let all ranks do ``task`` at once, in one process group.

        After a fault it is started again in a new group, with fewer ranks if a lost one cannot be
        replaced; it resumes from its own checkpoint.

        Args:
            on_progress: called in this thread.

        Raises:
            WorkersLostError: three generations in a row made no new step.
            Exception: what the task raised on any rank, as it was raised there.
        """
        return self._observed(Work.GROUP, partial(self._do_group, task), on_progress)

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


class InProcessRuntime(Runtime):
    """One rank, in this process; ``spec.workers`` and partitions do not matter."""

    num_ranks = 1

    def __init__(self, spec: RuntimeSpec, faults: Sequence[Fault] = ()) -> None:
        super().__init__()
        has_gpu = torch.cuda.is_available()
        if spec.device == "cuda" and not has_gpu:
            raise InputError("device: found 'cuda', but there is no GPU; accepted 'cpu', 'auto'")
        self.faults = faults
        self.generation = -1
        self.device = torch.device("cuda" if has_gpu and spec.device != "cpu" else "cpu")
        self.process = {"pid": os.getpid(), "host": socket.gethostname()}
        self._threads = torch.get_num_threads()
        torch.set_num_threads(spec.threads or self._threads)

    def close(self) -> None:
        """Give back the number of threads."""
        torch.set_num_threads(self._threads)

    def _do_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult:
        log, path, spent = self._begin(len(job.path)), job.path, no_time()
        log.report(report, Progress, Phase.SETUP, path=path)
        began = time.perf_counter()
        share = RankShare.whole(job.problem.num_candidates)
        objective = job.problem.objective(share, self.device, lambda: None)
        spent["setup_s"] = time.perf_counter() - began

        def on_step(path: GreedyPath) -> None:
            log.step = len(path)
            if log.since_step_s() >= PERIOD_S:
                log.reach(len(path))
                log.note_step()
                log.report(report, Progress, Phase.SEARCH, path=path)

        began = time.perf_counter()
        log.report(report, Progress, Phase.SEARCH, path=path)
        greedy(objective, job.stop, path=path, on_step=on_step)
        spent["compute_s"] = time.perf_counter() - began
        spent["evaluated"] = getattr(objective, "num_evaluated", 0)
        spent["scored"] = getattr(objective, "num_scored", 0)
        log.event("finished")
        log.report(report, Progress, Phase.SEARCH, path=path)
        return SearchResult(path=path, timing=self._timing(spent), events=log.events)

    def _do_map(
        self, task: Task, items: Sequence[Any], keep: bool, report: OnItem | None
    ) -> MapResult:
        results = MapResults(len(items), report, self._begin())
        results.prepared(0, 0.0)
        for place, item in enumerate(items):
            began = time.perf_counter()
            value = task.run(item, self.device, lambda: None)
            results.done(place, value, 0, time.perf_counter() - began, peak_bytes())
        return results.result({0: self.process})

    def _do_group(self, task: GroupTask, report: OnGroupProgress | None) -> GroupResult:
        log, spent = self._begin(), no_time()
        values: list[FeedEntry] = []
        reported = 0

        def flush() -> None:
            log.report(report, GroupProgress, Phase.WORK, values=tuple(values))
            values.clear()

        def tick(step: int, value: Any = None) -> None:
            nonlocal reported
            if value is not None:
                values.append((step, json.loads(json.dumps(value))))  # what is no JSON fails here
            log.step = step
            if step > reported and log.since_step_s() >= PERIOD_S:
                reported = step
                log.reach(step)
                log.note_step(TASK_EVENT_PERIOD_S)
                flush()

        flush()
        began = time.perf_counter()
        value = task.run(NoPeers(), self.device, tick)
        spent["compute_s"] = time.perf_counter() - began
        log.event("finished")
        flush()
        return GroupResult(value=value, timing=self._timing(spent), events=log.events)

    def _begin(self, step: int = 0) -> EventLog:
        log = EventLog(self.faults)
        self.generation += 1
        log.begin(self.generation, 1)
        log.step = step
        log.event("rank_started", 0, **self.process)
        return log

    def _timing(self, spent: RankTiming) -> Timing:
        spent["peak_rss_bytes"] = peak_bytes()
        row = cast(RankTiming, {"rank": 0, **self.process, **spent})
        return group_timing([row], spent["setup_s"], spent["compute_s"])


class WorkerRuntime(Runtime):
    """Workers that stay for many jobs; their ``launcher`` is closed with the runtime."""

    def __init__(self, spec: RuntimeSpec, launcher: Launcher, faults: Sequence[Fault]) -> None:
        super().__init__()
        self.num_ranks = spec.workers
        self.pool = WorkerPool(spec, launcher, faults)

    def close(self) -> None:
        self.pool.close()

    def _do_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult:
        run = SearchRun(self.pool, job, report)
        with self.pool.working(Work.SEARCH, job.problem, run.watchdog):
            return run.result()

    def _do_map(
        self, task: Task, items: Sequence[Any], keep: bool, report: OnItem | None
    ) -> MapResult:
        run = MapRun(self.pool, items, keep, report)
        with self.pool.working(Work.MAP, task, run.watchdog):
            return run.result()

    def _do_group(self, task: GroupTask, report: OnGroupProgress | None) -> GroupResult:
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
        faults: to be carried out, besides those of ``GFS_FAULTS`` (tests).
        observers: get reports of all work; on a Ray cluster Prometheus metrics are added.

    Raises:
        InputError: something that this machine or cluster cannot offer.
    """
    faults = [*faults, *from_environment()]
    if spec.kind == "none":
        runtime: Runtime = InProcessRuntime(spec, faults)
    elif spec.kind == "local":
        runtime = WorkerRuntime(spec, LocalLauncher(spec.device), faults)
    else:
        from gfs_dist.runtime.backends.ray import RayLauncher  # Ray: half a second to import
        from gfs_dist.runtime.prometheus import PrometheusMetrics  # after what that sets first

        runtime = WorkerRuntime(spec, RayLauncher(spec), faults)
        runtime.observers.append(PrometheusMetrics())
    runtime.observers += observers
    return runtime
