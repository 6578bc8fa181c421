"""What Prometheus is told, with stand-ins for Ray's metrics and once from a real Ray's port."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import pytest

from gfs_dist.runtime import (
    GroupProgress,
    Phase,
    RuntimeSpec,
    Work,
    WorkProgress,
    WorkResult,
    open_runtime,
)
from gfs_dist.runtime.prometheus import PrometheusMetrics
from gfs_dist.selection.stop import Stop
from tests.runtime.problems import matrix_problem

POLL_S, PATIENCE_S = 0.5, 60.0


@dataclass
class Recorded:
    """A metric that keeps what it is told."""

    values: list[float] = field(default_factory=list)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values.append(value)

    def observe(self, value: float, tags: dict[str, str]) -> None:
        self.values.append(value)

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0  # Ray takes no other
        self.values.append(value)


class Stands:
    """In the place of :class:`Meters`."""

    def __init__(self) -> None:
        self.steps, self.step_seconds, self.loss = Recorded(), Recorded(), Recorded()
        self.neurons_kept, self.workers, self.workers_lost = Recorded(), Recorded(), Recorded()
        self.wait_share = Recorded()


def metrics(work: Work, step: int = 0) -> tuple[Any, PrometheusMetrics]:
    meters: Any = Stands()
    observer = PrometheusMetrics(meters)
    observer.on_start(work, step)
    return meters, observer


def at(step: int, *events: Any, **more: Any) -> WorkProgress:
    return WorkProgress(phase=Phase.WORK, step=step, num_ranks=2, events=events, **more)


def test_steps_are_counted_once_though_they_are_made_again() -> None:
    meters, observer = metrics(Work.SEARCH, step=3)
    for step in (3, 5, 4, 5, 9):
        observer.on_progress(Work.SEARCH, at(step))
    assert meters.steps.values == [2, 4]
    assert len(meters.step_seconds.values) == 2


def test_the_start_of_workers_is_no_step() -> None:
    meters, observer = metrics(Work.MAP)
    observer.on_progress(Work.MAP, at(1))
    assert (meters.steps.values, meters.step_seconds.values) == ([1], [])


def test_each_lost_worker_counts_once() -> None:
    meters, observer = metrics(Work.SEARCH)
    observer.on_progress(Work.SEARCH, at(1, {"event": "fault"}, {"event": "step"}))
    timing: Any = {"steps_s": 4.0, "ranks": [{"wait_s": 1.0}, {"wait_s": 3.0}]}
    faults: Any = [{"kind": "killed"}] * 3
    observer.on_result(Work.SEARCH, WorkResult(timing=timing, faults=faults))
    assert meters.workers_lost.values == [1, 2]
    assert (meters.workers.values, meters.wait_share.values) == ([2, 0], [0.75])


@pytest.mark.parametrize(
    ("loss", "shown"),
    [(0.5, [0.5]), ({"loss": 0.5}, [0.5]), (None, []), ("x", []), ([1.0], []), ({}, [])],
)
def test_only_a_number_is_a_loss(loss: object, shown: list[float]) -> None:
    meters, observer = metrics(Work.GROUP)
    told = GroupProgress(phase=Phase.WORK, step=1, values=((1, loss),))
    observer.on_progress(Work.GROUP, told)
    assert meters.loss.values == shown


@pytest.mark.slow
def test_prometheus_reads_them_from_ray(embedded_ray: None) -> None:
    import ray

    spec = RuntimeSpec(kind="ray", workers=2, threads=1, device="cpu")
    with open_runtime(spec) as runtime:
        found = runtime.search(matrix_problem(), Stop(steps=40))
        (node,) = [node for node in ray.nodes() if node["Alive"]]
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        shown = scraped(url)
    assert shown["ray_gfs_steps_total"] >= 40  # other searches in the same Ray count, too
    assert shown["ray_gfs_loss"] == pytest.approx(found.path.loss[-1])
    assert shown["ray_gfs_neurons_kept"] == found.path.num_kept
    assert shown["ray_gfs_workers"] == 0
    assert 0 <= shown["ray_gfs_wait_share"] <= 1
    assert shown["ray_gfs_step_seconds_count"] >= 1


def scraped(url: str) -> dict[str, float]:
    """The numbers of the search, by name, as soon as Ray shows its end; it does so every 10 s."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + PATIENCE_S
    while True:
        with direct.open(url, timeout=600) as answer:
            text = answer.read().decode()
        if "\nray_gfs_wait_share{" in text or time.monotonic() > end:
            break
        time.sleep(POLL_S)  # another program's file: there is no event to wait for
    rows = re.findall(r'^(ray_gfs_\w+)\{.*work="search"\} (\S+)$', text, re.M)
    return {name: float(value) for name, value in rows}
