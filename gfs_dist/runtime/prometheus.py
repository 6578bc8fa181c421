"""Metrics of a runtime on a Ray cluster for Prometheus: ``ray_gfs_*`` on the driver's node.

All is taken from the reports to observers of the runtime, at most some twenty a second; ranks and
their loops are not involved.
"""

from __future__ import annotations

import time
from numbers import Real

from gfs_dist.runtime.progress import (
    GroupProgress,
    Progress,
    RuntimeObserver,
    Work,
    WorkProgress,
    WorkResult,
)

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
        self.loss = Gauge("gfs_loss", "The last loss that was reported.", WORK)
        self.neurons_kept = Gauge("gfs_neurons_kept", "Distinct picks so far.", WORK)
        self.workers = Gauge("gfs_workers", "Ranks at work.", WORK)
        self.workers_lost = Counter("gfs_workers_lost", "Workers that died or hung.", WORK)
        self.wait_share = Gauge(
            "gfs_wait_share", "Part of its time that the rank which waited most did so.", WORK
        )


class PrometheusMetrics(RuntimeObserver):
    """Shows the work of a runtime as metrics.

    Args:
        meters: what is written to; None for Ray's.
    """

    def __init__(self, meters: Meters | None = None) -> None:
        self._meters = meters or Meters()
        self._step = self._lost = 0
        self._time: float | None = None  # of the last report on this work

    def on_start(self, work: Work, step: int) -> None:
        self._step, self._lost, self._time = step, 0, None

    def on_progress(self, work: Work, progress: WorkProgress) -> None:
        tags = {"work": work.value}
        now = time.perf_counter()
        made = progress.step - self._step  # after a fault steps are made that were counted before
        if made > 0:
            self._meters.steps.inc(made, tags)
            if self._time is not None:
                self._meters.step_seconds.observe((now - self._time) / made, tags)
            self._step = progress.step
        self._time = now
        self._meters.workers.set(progress.num_ranks, tags)
        self._count_lost(sum(row["event"] == "fault" for row in progress.events), tags)
        if isinstance(progress, Progress):
            self._meters.neurons_kept.set(progress.num_kept, tags)
        if isinstance(loss := last_loss(progress), Real):
            self._meters.loss.set(float(loss), tags)

    def on_result(self, work: Work, result: WorkResult) -> None:
        tags = {"work": work.value}
        self._count_lost(len(result.faults) - self._lost, tags)
        self._meters.workers.set(0, tags)
        timing = result.timing
        wait_s = max((row["wait_s"] for row in timing["ranks"]), default=0.0)
        if timing["steps_s"] > 0:
            self._meters.wait_share.set(min(1.0, wait_s / timing["steps_s"]), tags)

    def _count_lost(self, count: int, tags: dict[str, str]) -> None:
        if count > 0:
            self._lost += count
            self._meters.workers_lost.inc(count, tags)


def last_loss(progress: WorkProgress) -> object:
    """The last loss that is reported, whatever a group task reports as such; None without."""
    if isinstance(progress, Progress):
        return progress.path.loss[-1] if progress.path.loss else None
    if isinstance(progress, GroupProgress) and progress.values:
        _, value = progress.values[-1]
        return value.get("loss") if isinstance(value, dict) else value
    return None
