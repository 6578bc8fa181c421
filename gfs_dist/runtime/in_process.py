"""The executor without workers: all work is done in this process, by one rank."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from typing import Any, cast

import torch

from gfs_dist.errors import InputError
from gfs_dist.records import RankTiming, Timing
from gfs_dist.runtime.event_log import TASK_EVENT_PERIOD_S, EventLog
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.heartbeat import FeedEntry
from gfs_dist.runtime.map import MapResults
from gfs_dist.runtime.progress import (
    GroupProgress,
    GroupResult,
    MapResult,
    OnGroupProgress,
    OnItem,
    OnProgress,
    Phase,
    Progress,
    SearchResult,
)
from gfs_dist.runtime.resources import group_timing, no_time, peak_bytes
from gfs_dist.runtime.spec import GroupTask, NoPeers, RuntimeSpec, SearchJob, Task
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
        self.process = {"pid": os.getpid(), "host": socket.gethostname()}
        self._threads = torch.get_num_threads()
        torch.set_num_threads(spec.threads or self._threads)

    def close(self) -> None:
        """Give back the number of threads."""
        torch.set_num_threads(self._threads)

    def run_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult:
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

    def run_map(self, task: Task, items: Sequence[Any], report: OnItem | None) -> MapResult:
        results = MapResults(len(items), report, self._begin())
        results.prepared(0, 0.0)
        for place, item in enumerate(items):
            began = time.perf_counter()
            value = task.run(item, self.device, lambda: None)
            results.done(place, value, 0, time.perf_counter() - began, peak_bytes())
        return results.result({0: self.process})

    def run_task(self, task: GroupTask, report: OnGroupProgress | None) -> GroupResult:
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
