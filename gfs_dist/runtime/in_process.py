"""The runtime without workers: the same interface, the work in this process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Self

import torch

from gfs_dist.errors import InputError
from gfs_dist.runtime.event_log import Journal, Row
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.group_journal import GroupJournal
from gfs_dist.runtime.map_journal import MapJournal
from gfs_dist.runtime.news import ValueNews
from gfs_dist.runtime.peers import NoPeers
from gfs_dist.runtime.progress import (
    GroupResult,
    MapResult,
    OnDone,
    OnGroupProgress,
    OnProgress,
    SearchResult,
)
from gfs_dist.runtime.spec import GroupTask, Problem, RuntimeSpec, Task
from gfs_dist.runtime.timing import Timing, peak_rss_bytes, summary
from gfs_dist.runtime.tracker import Tracker
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop

PERIOD_S = 0.1


class InProcessRuntime:
    """One rank, in this process; ``spec.workers`` and ``partition`` do not matter."""

    num_ranks = 1

    def __init__(self, spec: RuntimeSpec, faults: Sequence[Fault] = ()) -> None:
        has_gpu = torch.cuda.is_available()
        if spec.device == "cuda" and not has_gpu:
            raise InputError("device: found 'cuda', but there is no GPU; accepted 'cpu', 'auto'")
        self.spec, self.faults = spec, faults
        self.generation = -1
        self.device = torch.device("cuda" if has_gpu and spec.device != "cpu" else "cpu")
        self.who = {"pid": os.getpid(), "host": socket.gethostname()}

    def __enter__(self) -> Self:
        self._threads = torch.get_num_threads()
        if self.spec.threads is not None:
            torch.set_num_threads(self.spec.threads)
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the number of threads."""
        torch.set_num_threads(self._threads)

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
        path = path or GreedyPath(problem.num_candidates)
        path = path.prefix(len(path))
        tracker = Tracker(path, on_progress, self.faults)
        self._begin(tracker)
        tracker.report("setup")
        began = time.perf_counter()
        share = RankShare.whole(problem.num_candidates)
        objective = problem.objective(share, self.device, lambda: None)
        timing = Timing(setup_s=time.perf_counter() - began)

        def on_step(_: GreedyPath) -> None:
            tracker.step_here(PERIOD_S)

        began = time.perf_counter()
        tracker.begin(self.generation, path, 1)
        path = greedy(objective, stop, path=path, on_step=on_step)
        timing.compute_s = time.perf_counter() - began
        timing.finish(objective)
        tracker.event("finished")
        tracker.report("search")
        return SearchResult(path, self._summary(timing), [], tracker.events)

    def map(self, task: Task, items: Sequence[Any], on_done: OnDone | None = None) -> MapResult:
        """See :meth:`gfs_dist.runtime.worker_runtime.WorkersRuntime.map`."""
        journal = MapJournal(len(items), on_done, self.faults)
        self._begin(journal)
        journal.prepared(0, 0.0)
        for place, item in enumerate(items):
            began = time.perf_counter()
            value = task.run(item, self.device, lambda: None)
            journal.done(place, value, 0, time.perf_counter() - began, peak_rss_bytes())
        return journal.result({0: self.who})

    def run_group(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        """See :meth:`gfs_dist.runtime.worker_runtime.WorkersRuntime.run_group`."""
        journal = GroupJournal(on_progress, self.faults)
        self._begin(journal)
        journal.begin(self.generation, 1)

        news = ValueNews()

        def tick(step: int, value: Any = None) -> None:
            news.add(step, value)
            journal.add(news.take())
            journal.step_here(step, PERIOD_S)

        began = time.perf_counter()
        value = task.run(NoPeers(), self.device, tick)
        timing = Timing(compute_s=time.perf_counter() - began)
        timing.finish()
        journal.event("finished")
        journal.report("work")
        return GroupResult(value, self._summary(timing), [], journal.events)

    def _begin(self, journal: Journal) -> None:
        self.generation += 1
        journal.generation, journal.num_ranks = self.generation, 1
        journal.event("rank_started", 0, **self.who)

    def _summary(self, timing: Timing) -> Row:
        row = {"rank": 0, **self.who, **asdict(timing)}
        return summary([row], timing.setup_s, timing.compute_s)
