"""What a Ray cluster shows of its work to Prometheus: ``ray_gfs_*`` on the driver's node.

Everything is taken from what the coordinator tells its caller anyway, at most some twenty times a
second; ranks and their loops know nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from gfs_dist.runtime.event_log import Row
from gfs_dist.runtime.progress import (
    GroupProgress,
    GroupResult,
    MapProgress,
    MapResult,
    OnDone,
    OnGroupProgress,
    OnProgress,
    Progress,
    SearchResult,
)
from gfs_dist.runtime.spec import GroupTask, Problem, Task
from gfs_dist.runtime.worker_runtime import WorkersRuntime
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop

WORK = ("work",)
"""Tag of all: ``search``, ``map`` (layers, batches) or ``group`` (training)."""
BOUNDS_S = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class Meters:
    """The metrics themselves; Prometheus sees a name with ``ray_`` before it."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram  # ray_actors is first to import Ray

        self.steps = Counter("gfs_steps", "Picks, items or training steps done.", WORK)
        self.step_seconds = Histogram(
            "gfs_step_seconds", "Seconds a step, the mean between two reports.", BOUNDS_S, WORK
        )
        self.loss = Gauge("gfs_loss", "The last loss that was told.", WORK)
        self.neurons_kept = Gauge("gfs_neurons_kept", "Distinct picks so far.", WORK)
        self.workers = Gauge("gfs_workers", "Ranks at work.", WORK)
        self.workers_lost = Counter("gfs_workers_lost", "Workers that died or hung.", WORK)
        self.wait_share = Gauge(
            "gfs_wait_share", "Part of its time that the rank which waited most did so.", WORK
        )


class Meter:
    """One search, map or group task as the metrics see it.

    Args:
        meters: what is written to.
        work: the tag.
        step: how far it is already.
    """

    def __init__(self, meters: Meters, work: str, step: int = 0) -> None:
        self._meters, self._tags = meters, {"work": work}
        self._step, self._lost = step, 0
        self._time: float | None = None  # since when steps are made

    def reach(self, step: int, num_ranks: int, events: Iterable[Row]) -> None:
        """It is at ``step``; after a fault perhaps at one that was counted before."""
        now = time.perf_counter()
        made = step - self._step
        if made > 0:
            self._meters.steps.inc(made, self._tags)
            if self._time is not None:
                self._meters.step_seconds.observe((now - self._time) / made, self._tags)
            self._step = step
        self._time = now
        self._meters.workers.set(num_ranks, self._tags)
        self._count_lost(sum(row["event"] == "fault" for row in events))

    def show_loss(self, loss: object) -> None:
        """Show a loss, if it is one."""
        if isinstance(loss, Real):
            self._meters.loss.set(float(loss), self._tags)

    def keep(self, num_kept: int) -> None:
        """Show how many neurons are kept."""
        self._meters.neurons_kept.set(num_kept, self._tags)

    def end(self, result: SearchResult | MapResult | GroupResult) -> None:
        """It is done: what is known only now."""
        self._count_lost(len(result.faults) - self._lost)
        self._meters.workers.set(0, self._tags)
        timing = result.timing
        wait_s = max((row["wait_s"] for row in timing["ranks"]), default=0.0)
        if timing["steps_s"] > 0:
            self._meters.wait_share.set(min(1.0, wait_s / timing["steps_s"]), self._tags)

    def _count_lost(self, count: int) -> None:
        if count > 0:
            self._lost += count
            self._meters.workers_lost.inc(count, self._tags)


class MeteredRuntime(WorkersRuntime):
    """Workers on Ray whose progress is shown as metrics too."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._meters = Meters()

    def search(
        self,
        problem: Problem,
        stop: Stop,
        partition: Partition | None = None,
        *,
        path: GreedyPath | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        meter = Meter(self._meters, "search", len(path) if path is not None else 0)

        def listen(progress: Progress) -> None:
            made = progress.path
            meter.reach(len(made), progress.num_ranks, progress.events)
            meter.keep(made.num_kept)
            if made.loss:
                meter.show_loss(made.loss[-1])
            if on_progress is not None:
                on_progress(progress)

        found = super().search(problem, stop, partition, path=path, on_progress=listen)
        meter.end(found)
        return found

    def map(self, task: Task, items: Sequence[Any], on_done: OnDone | None = None) -> MapResult:
        meter = Meter(self._meters, "map")

        def listen(place: int, value: Any, progress: MapProgress) -> None:
            meter.reach(progress.done, progress.num_ranks, progress.events)
            if on_done is not None:
                on_done(place, value, progress)

        found = super().map(task, items, listen)
        meter.end(found)
        return found

    def run_group(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        meter = Meter(self._meters, "group")

        def listen(progress: GroupProgress) -> None:
            meter.reach(progress.step, progress.num_ranks, progress.events)
            for _, value in progress.values[-1:]:
                meter.show_loss(value.get("loss") if isinstance(value, dict) else value)
            if on_progress is not None:
                on_progress(progress)

        found = super().run_group(task, listen)
        meter.end(found)
        return found
