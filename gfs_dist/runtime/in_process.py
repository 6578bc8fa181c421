"""The executor without workers: all work is done in this process, by one rank."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from gfs_dist.errors import InputError
from gfs_dist.records import Timing as TimingRow
from gfs_dist.runtime.event_log import Journal
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.group_journal import GroupJournal
from gfs_dist.runtime.map_journal import MapJournal
from gfs_dist.runtime.news import ValueNews
from gfs_dist.runtime.peers import NoPeers
from gfs_dist.runtime.progress import (
    GroupResult,
    MapResult,
    OnGroupProgress,
    OnItem,
    OnProgress,
    Phase,
    SearchResult,
)
from gfs_dist.runtime.spec import GroupTask, RuntimeSpec, SearchJob, Task
from gfs_dist.runtime.timing import Timing, peak_rss_bytes, summary
from gfs_dist.runtime.tracker import Tracker
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.path import GreedyPath

PERIOD_S = 0.1


class InProcessExecutor:
    """One rank, in this process; ``spec.workers`` and partitions do not matter."""

    num_ranks = 1

    def __init__(self, spec: RuntimeSpec, faults: Sequence[Fault] = ()) -> None:
        has_gpu = torch.cuda.is_available()
        if spec.device == "cuda" and not has_gpu:
            raise InputError("device: found 'cuda', but there is no GPU; accepted 'cpu', 'auto'")
        self.faults = faults
        self.generation = -1
        self.device = torch.device("cuda" if has_gpu and spec.device != "cpu" else "cpu")
        self.who = {"pid": os.getpid(), "host": socket.gethostname()}
        self._threads = torch.get_num_threads()
        torch.set_num_threads(spec.threads or self._threads)

    def close(self) -> None:
        """Give back the number of threads."""
        torch.set_num_threads(self._threads)

    def run_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult:
        tracker = Tracker(job.path, report, self.faults)
        self._begin(tracker)
        tracker.report(Phase.SETUP)
        began = time.perf_counter()
        share = RankShare.whole(job.problem.num_candidates)
        objective = job.problem.objective(share, self.device, lambda: None)
        timing = Timing(setup_s=time.perf_counter() - began)

        def on_step(_: GreedyPath) -> None:
            tracker.step_here(PERIOD_S)

        began = time.perf_counter()
        tracker.begin(self.generation, job.path, 1)
        path = greedy(objective, job.stop, path=job.path, on_step=on_step)
        timing.compute_s = time.perf_counter() - began
        timing.finish(objective)
        tracker.event("finished")
        tracker.report(Phase.SEARCH)
        return SearchResult(path=path, timing=self._summary(timing), events=tracker.events)

    def run_map(self, task: Task, items: Sequence[Any], report: OnItem | None) -> MapResult:
        journal = MapJournal(len(items), report, self.faults)
        self._begin(journal)
        journal.prepared(0, 0.0)
        for place, item in enumerate(items):
            began = time.perf_counter()
            value = task.run(item, self.device, lambda: None)
            journal.done(place, value, 0, time.perf_counter() - began, peak_rss_bytes())
        return journal.result({0: self.who})

    def run_task(self, task: GroupTask, report: OnGroupProgress | None) -> GroupResult:
        journal = GroupJournal(report, self.faults)
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
        journal.report(Phase.WORK)
        return GroupResult(value=value, timing=self._summary(timing), events=journal.events)

    def _begin(self, journal: Journal) -> None:
        self.generation += 1
        journal.generation, journal.num_ranks = self.generation, 1
        journal.event("rank_started", 0, **self.who)

    def _summary(self, timing: Timing) -> TimingRow:
        row = {"rank": 0, **self.who, **asdict(timing)}
        return summary([row], timing.setup_s, timing.compute_s)
