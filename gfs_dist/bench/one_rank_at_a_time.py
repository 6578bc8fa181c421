"""A runtime whose ranks work one after another in this process, each timed alone.

For machines with fewer cores or GPUs than ranks: nobody disturbs the rank that is timed, and what
many would take together follows from their times. One run serves several numbers of ranks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

import torch

from gfs_dist.bench.replay import RankTiming, Record, record, replay
from gfs_dist.runtime.in_process import InProcessRuntime
from gfs_dist.runtime.progress import (
    GroupResult,
    MapResult,
    OnDone,
    OnGroupProgress,
    OnProgress,
    SearchResult,
)
from gfs_dist.runtime.spec import GroupTask, Problem, RuntimeSpec, Task
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop


class OneByOne:
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
        self._alone = InProcessRuntime(RuntimeSpec("none", 1, device, threads))

    @property
    def device(self) -> torch.device:
        """Where the ranks compute."""
        return self._alone.device

    def search(
        self,
        problem: Problem,
        stop: Stop,
        partition: Partition | None = None,
        *,
        path: GreedyPath | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        """The search of one rank; contiguous parts of it are then timed.

        Raises:
            PicksDifferError: a rank would have decided otherwise.
        """
        assert partition is None and path is None, "timed from the beginning, in contiguous parts"
        began = time.perf_counter()
        told, whole = record(problem, stop, self.device)
        timings = {1: [whole]}
        for ranks in self.ranks:
            if ranks > 1:
                parts = Partition.contiguous(problem.num_candidates, ranks)
                timings[ranks] = [
                    replay(problem, stop, parts, rank, told, self.device) for rank in range(ranks)
                ]
        self.searches.append((told, timings))
        self.inside_s += time.perf_counter() - began
        return SearchResult(told.path, {})

    def map(self, task: Task, items: Sequence[Any], on_done: OnDone | None = None) -> MapResult:
        """Every item, timed."""
        began, seconds, values = time.perf_counter(), [], []
        for item in items:
            start = time.perf_counter()
            values.append(task.run(item, self.device, lambda: None))
            seconds.append(time.perf_counter() - start)
        self.maps.append(seconds)
        self.inside_s += time.perf_counter() - began
        return MapResult(values, {})

    def run_group(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        """As one rank; not timed."""
        return self._alone.run_group(task, on_progress)

    def close(self) -> None:
        """Give back the number of threads."""
        self._alone.close()

    def __enter__(self) -> Self:
        self._alone.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._alone.__exit__(*exception)
