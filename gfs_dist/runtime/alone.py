"""The runtime without workers: the same interface, the search in this process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Self

import torch

from gfs_dist.errors import InputError
from gfs_dist.runtime.coordinator import summary
from gfs_dist.runtime.faults import Fault
from gfs_dist.runtime.progress import OnProgress, SearchResult, Tracker
from gfs_dist.runtime.spec import Problem, RuntimeSpec
from gfs_dist.runtime.worker import Timing, timing_row
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import Path
from gfs_dist.selection.stop import Stop

PERIOD_S = 0.1


class AloneRuntime:
    """One rank, in this process; ``spec.workers`` and ``partition`` do not matter."""

    num_ranks = 1

    def __init__(self, spec: RuntimeSpec, faults: Sequence[Fault] = ()) -> None:
        has_gpu = torch.cuda.is_available()
        if spec.device == "cuda" and not has_gpu:
            raise InputError("device: found 'cuda', but there is no GPU; accepted 'cpu', 'auto'")
        self.spec, self.faults = spec, faults
        self.generation = -1
        self.device = torch.device("cuda" if has_gpu and spec.device != "cpu" else "cpu")

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
        path: Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        """See :meth:`gfs_dist.runtime.coordinator.WorkersRuntime.search`."""
        path = path or Path(problem.num_candidates)
        path = path.prefix(len(path))
        tracker = Tracker(path, on_progress, self.faults)
        self.generation += 1
        tracker.generation, tracker.num_ranks = self.generation, 1
        who = {"pid": os.getpid(), "host": socket.gethostname()}
        tracker.event("rank_started", 0, **who)
        tracker.report("setup")
        began = time.perf_counter()
        everything = torch.arange(problem.num_candidates)
        objective = problem.objective(everything, self.device, lambda: None)
        timing = Timing(setup_s=time.perf_counter() - began)

        def on_step(_: Path) -> None:
            tracker.step(PERIOD_S)

        began = time.perf_counter()
        tracker.begin(self.generation, path, 1)
        path = greedy(objective, stop, path=path, on_step=on_step)
        timing.compute_s = time.perf_counter() - began
        timing.finish(objective)
        tracker.event("finished")
        tracker.report("search")
        row = {"rank": 0, **who, **timing_row(timing)}
        return SearchResult(
            path, summary([row], timing.setup_s, timing.compute_s), [], tracker.events
        )
