"""An executor whose ranks work one after another in this process, each timed alone.

For machines with fewer cores or GPUs than ranks: nobody disturbs the rank that is timed, and what
many would take together follows from their times. One run serves several numbers of ranks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from gfs_dist.bench.replay import RankTiming, Record, record, replay
from gfs_dist.runtime import (
    GroupResult,
    GroupTask,
    MapResult,
    OnGroupProgress,
    OnItem,
    OnProgress,
    RuntimeSpec,
    SearchJob,
    SearchResult,
    Task,
)
from gfs_dist.runtime.in_process import InProcessExecutor
from gfs_dist.selection.partition import Partition


class OneRankAtATime:
    """Searches once, then times every rank of every partition; times every item of a map.

    Args:
        ranks: numbers of ranks to time.
        device: as in :class:`RuntimeSpec`; ``cuda`` is one GPU for all.
        threads: torch threads of a rank.

    Attributes:
        searches: of each search, what was exchanged, and by number of ranks each rank's timing.
        maps: of each map, seconds of each item.
        inside_s: time spent in here; a caller's own work is what it took besides.
    """

    num_ranks = 1

    def __init__(self, ranks: Sequence[int], device: str = "auto", threads: int = 1) -> None:
        self.ranks = tuple(ranks)
        self.searches: list[tuple[Record, dict[int, list[RankTiming]]]] = []
        self.maps: list[list[float]] = []
        self.inside_s = 0.0
        self._in_process = InProcessExecutor(RuntimeSpec("none", 1, device, threads))

    @property
    def device(self) -> torch.device:
        """Where the ranks compute."""
        return self._in_process.device

    def run_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult:
        """The search of one rank; contiguous parts of it are then timed.

        Raises:
            PicksDifferError: a rank would have decided otherwise.
        """
        assert job.partition is None and not job.path.picks, "contiguous, from the beginning"
        began, problem = time.perf_counter(), job.problem
        told, whole = record(problem, job.stop, self.device)
        timings = {1: [whole]}
        for ranks in self.ranks:
            if ranks > 1:
                parts = Partition.contiguous(problem.num_candidates, ranks)
                timings[ranks] = [
                    replay(problem, job.stop, parts, rank, told, self.device)
                    for rank in range(ranks)
                ]
        self.searches.append((told, timings))
        self.inside_s += time.perf_counter() - began
        return SearchResult(path=told.path, timing={})

    def run_map(self, task: Task, items: Sequence[Any], report: OnItem | None) -> MapResult:
        """Every item, timed."""
        began, seconds, values = time.perf_counter(), [], []
        for item in items:
            start = time.perf_counter()
            values.append(task.run(item, self.device, lambda: None))
            seconds.append(time.perf_counter() - start)
        self.maps.append(seconds)
        self.inside_s += time.perf_counter() - began
        return MapResult(values=values, timing={})

    def run_task(self, task: GroupTask, report: OnGroupProgress | None) -> GroupResult:
        """As one rank; not timed."""
        return self._in_process.run_task(task, report)

    def close(self) -> None:
        self._in_process.close()
