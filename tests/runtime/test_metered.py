"""What Prometheus is told, with stand-ins for Ray's metrics and once from a real Ray's port."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import pytest

from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.runtime.progress import MapResult
from gfs_dist.runtime.prometheus import Meter
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


def result(faults: int) -> MapResult:
    timing = {"steps_s": 4.0, "ranks": [{"wait_s": 1.0}, {"wait_s": 3.0}]}
    return MapResult([], timing, [{"kind": "killed"}] * faults)


def test_steps_are_counted_once_though_they_are_made_again() -> None:
    meters: Any = Stands()
    meter = Meter(meters, "search", step=3)
    for step in (3, 5, 4, 5, 9):
        meter.reach(step, 2, [])
    assert meters.steps.values == [2, 4]
    assert len(meters.step_seconds.values) == 2


def test_the_start_of_workers_is_no_step() -> None:
    meters: Any = Stands()
    Meter(meters, "map").reach(1, 2, [])
    assert (meters.steps.values, meters.step_seconds.values) == ([1], [])


def test_each_lost_worker_counts_once() -> None:
    meters: Any = Stands()
    meter = Meter(meters, "search")
    meter.reach(1, 2, [{"event": "fault"}, {"event": "step"}])
    meter.end(result(faults=3))
    assert meters.workers_lost.values == [1, 2]
    assert (meters.workers.values, meters.wait_share.values) == ([2, 0], [0.75])


@pytest.mark.parametrize(("loss", "shown"), [(0.5, [0.5]), (None, []), ("x", []), ([1.0], [])])
def test_only_a_number_is_a_loss(loss: object, shown: list[float]) -> None:
    meters: Any = Stands()
    Meter(meters, "group").show_loss(loss)
    assert meters.loss.values == shown


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_prometheus_reads_them_from_ray(embedded_ray: None) -> None:
    import ray

    spec = RuntimeSpec(kind="ray", workers=2, threads=1, device="cpu")
    with open_runtime(spec) as runtime:
        found = runtime.search(matrix_problem(), Stop(steps=40))
        (node,) = [node for node in ray.nodes() if node["Alive"]]
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        shown = scraped(url)
    assert shown["ray_gfs_steps_total"] == 40
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
        with direct.open(url, timeout=10) as answer:
            text = answer.read().decode()
        if "\nray_gfs_wait_share{" in text or time.monotonic() > end:
            break
        time.sleep(POLL_S)  # another program's file: there is no event to wait for
    rows = re.findall(r'^(ray_gfs_\w+)\{.*work="search"\} (\S+)$', text, re.M)
    return {name: float(value) for name, value in rows}
