"""Any worker does any item, and whatever happens to workers all items are done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.errors import DataError, InputError, WorkersLostError
from gfs_dist.runtime import Fault, MapProgress, MapResult, Runtime, RuntimeSpec, open_runtime
from gfs_dist.runtime.launcher import PlacementError
from gfs_dist.runtime.local import LocalLauncher
from tests.runtime.tasks import Counted, Returns, Spin, Square, WhoAmI
from tests.runtime.test_driver_death import _alive, _wait_until_gone

ITEMS = list(range(24))
SQUARES = [n * n for n in ITEMS]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def local() -> Iterator[Runtime]:
    with open_runtime(RuntimeSpec(kind="local", workers=2, threads=1)) as runtime:
        yield runtime


def disturbed(
    faults: list[Fault], item_s: float = 0.05, items: list[int] = ITEMS, **spec: Any
) -> MapResult:
    spec = {"kind": "local", "workers": 2, "threads": 1, "hang_floor_s": 1.5, **spec}
    with open_runtime(RuntimeSpec(**spec), faults) as runtime:
        return runtime.map(Square(item_s), items)


def test_results_come_in_the_order_of_items_and_news_as_they_happen(local: Runtime) -> None:
    told: list[tuple[int, Any, MapProgress]] = []
    found = local.map(Square(0.01), ITEMS, lambda *news: told.append(news))
    assert list(found) == SQUARES
    assert sorted((place, value) for place, value, _ in told) == list(enumerate(SQUARES))
    assert [progress.done for _, _, progress in told] == [n + 1 for n in ITEMS]
    assert all(p.total == 24 and p.num_ranks == 2 for _, _, p in told)
    assert told[-1][2].items_per_s > 10
    assert [e for _, _, p in told for e in p.events] == found.events[:-1]
    assert found.events[-1]["event"] == "finished"
    steps = [row for row in found.events if row["event"] == "step"]
    assert sorted(row["step"] for row in steps) == ITEMS
    assert {row["rank"] for row in steps} == {0, 1}


def test_an_idle_worker_takes_the_next_item(local: Runtime) -> None:
    pids = [pid for pid, _ in local.map(WhoAmI(), [0.5, *[0.02] * 10])]
    assert len(set(pids[1:])) == 1  # one rank slept, the other did all the rest
    assert pids[0] != pids[1]


def test_timing_of_a_map_is_told_for_every_rank(local: Runtime) -> None:
    timing = local.map(Square(0.05), ITEMS).timing
    ranks = timing["ranks"]
    assert [row["rank"] for row in ranks] == [0, 1]
    assert sum(row["items"] for row in ranks) == 24
    assert sum(row["compute_s"] for row in ranks) == pytest.approx(24 * 0.05, rel=0.3)
    for row in ranks:
        spent = row["setup_s"] + row["compute_s"] + row["wait_s"]
        assert spent == pytest.approx(timing["steps_s"], abs=0.05)
        assert row["peak_rss_bytes"] > 2**20


def test_a_task_is_sent_to_each_worker_once(tmp_path: Path) -> None:
    with open_runtime(RuntimeSpec(kind="local", workers=2, threads=1)) as runtime:
        task = Counted(tmp_path)
        for _ in range(3):
            assert list(runtime.map(task, ITEMS)) == ITEMS
        assert len(list(tmp_path.iterdir())) == 2
        runtime.map(Counted(tmp_path), ITEMS)
        assert len(list(tmp_path.iterdir())) == 4


def test_no_items_no_fewer_than_ranks_and_threads_as_asked(local: Runtime) -> None:
    assert list(local.map(Square(), [])) == []
    ((_, threads),) = local.map(WhoAmI(), [0.0])
    assert threads == 1


def test_ray_actors_do_items(embedded_ray: None) -> None:
    with open_runtime(RuntimeSpec(kind="ray", workers=3, threads=1), [Fault(1, 3)]) as runtime:
        found = runtime.map(Square(0.05), ITEMS)
        assert list(found) == SQUARES
        assert [(f["rank"], f["kind"]) for f in found.faults] == [(1, "killed")]
        assert list(runtime.map(Square(), ITEMS)) == SQUARES


def test_what_a_task_raises_is_raised_and_the_workers_live_on(local: Runtime) -> None:
    with pytest.raises(DataError, match="item: found 5, accepted others") as caught:
        local.map(Square(0.01, bad=5), ITEMS)
    assert "in a worker (pid" in caught.value.__notes__[0]
    with pytest.raises(ZeroDivisionError):
        local.map(Square(), ITEMS, lambda place, value, progress: 1 // 0)
    with pytest.raises(InputError, match="what Returns.run returned: found generator, accepted"):
        local.map(Returns(), ["abc"])
    with pytest.raises(InputError, match="item 1: found generator, accepted what can be pickled"):
        local.map(Square(), [1, (n for n in "abc")])
    assert list(local.map(Square(), ITEMS)) == SQUARES


def test_a_killed_worker_is_replaced_and_its_item_done_again() -> None:
    found = disturbed([Fault(0, 3)])
    assert list(found) == SQUARES
    (fault,) = found.faults
    assert (fault["rank"], fault["kind"]) == (0, "killed")
    assert fault["step"] in ITEMS
    assert 0.0 <= fault["detected_s"] < 2.0
    assert fault["recovered_s"] < 2.0  # by the other rank: it does not take a new process
    rows = [(r["event"], r["rank"], r["step"]) for r in found.events]
    assert ("fault", 0, fault["step"]) in rows
    assert [event for event, _, _ in rows].count("recovered") == 1
    assert sum(row["items"] for row in found.timing["ranks"]) == 24


def test_a_stopped_worker_is_found_by_lack_of_ticks() -> None:
    found = disturbed([Fault(1, 2, "stop")])
    assert list(found) == SQUARES
    (fault,) = found.faults
    assert (fault["rank"], fault["kind"]) == (1, "hung")
    assert 1.0 < fault["detected_s"] < 10.0


def test_without_replacement_the_others_do_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    start = LocalLauncher.start
    started: list[Any] = []

    def start_two(self: LocalLauncher, *arguments: Any) -> Any:
        if len(started) == 2:
            raise PlacementError("no room")
        started.append(arguments)
        return start(self, *arguments)

    monkeypatch.setattr(LocalLauncher, "start", start_two)
    found = disturbed([Fault(0, 4)])
    assert list(found) == SQUARES
    assert [row["items"] for row in found.timing["ranks"]] == [3, 21]
    with pytest.raises(WorkersLostError, match="none is left and none could be started; the last"):
        started.clear()
        disturbed([Fault(0, 4), Fault(1, 6)])


def test_an_item_that_loses_three_workers_ends_the_map() -> None:
    with pytest.raises(
        WorkersLostError,
        match=r"workers: item 0 \('one'\) lost 3 workers in a row; the last: rank 0 killed, .*exit",
    ):
        disturbed([Fault(0, n, "exit") for n in (1, 2, 3)], items=["one"], workers=1)  # type: ignore[list-item]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_many_faults_in_one_map(embedded_ray: None, kind: str) -> None:
    faults = [
        Fault(0, 0),
        Fault(1, 1, "exit"),
        Fault(2, 2),
        Fault(2, 3),  # its successor at once
        Fault(1, 3, "stop"),
        Fault(0, 4),
    ]
    found = disturbed(faults, item_s=0.5, kind=kind, workers=3)
    assert list(found) == SQUARES
    kinds = sorted((f["rank"], f["kind"]) for f in found.faults)
    assert kinds == [(0, "killed")] * 2 + [(1, "hung"), (1, "killed")] + [(2, "killed")] * 2
    assert all(f["recovered_s"] is not None for f in found.faults)
    assert all(f["detected_s"] is not None for f in found.faults)


@pytest.mark.slow
def test_a_set_up_that_loses_three_workers_ends_the_map() -> None:
    task = Square()
    with open_runtime(RuntimeSpec(kind="local", workers=1, threads=1)) as runtime:
        runtime.crew.cargo["map"].put(task)  # type: ignore[attr-defined]
        runtime.crew.cargo["map"]._payload = b"cos\n_exit\n(I3\ntR."  # type: ignore[attr-defined]
        with pytest.raises(WorkersLostError, match="the set-up of rank 0 lost 3 workers in a row"):
            runtime.map(task, ITEMS)


@pytest.mark.slow
def test_a_worker_that_turns_in_circles_is_ended(tmp_path: Path) -> None:
    spec = RuntimeSpec(kind="local", workers=2, threads=1, hang_floor_s=0.5)
    with open_runtime(spec) as runtime:
        found = runtime.map(Spin(tmp_path), ITEMS)
    assert list(found) == ITEMS
    assert [(f["kind"], f["step"]) for f in found.faults] == [("hung", 3)]


@pytest.mark.slow
def test_a_spare_takes_over_at_once() -> None:
    spec = RuntimeSpec(kind="local", workers=2, spares=1, threads=1)
    with open_runtime(spec, [Fault(0, 3, generation=1)]) as runtime:
        runtime.map(Square(0.1), [0] * 60)  # by then the spare is up
        found = runtime.map(Square(0.1), ITEMS)
    assert list(found) == SQUARES
    fault, successor = [
        next(row["time"] for row in found.events if (row["event"], row["rank"]) == wanted)
        for wanted in (("fault", 0), ("recovered", 0))
    ]
    starts = [r["time"] for r in found.events if r["event"] == "rank_started" and r["rank"] == 0]
    assert starts[1] - fault < 0.2
    assert successor > fault


def test_searches_and_maps_share_workers(local: Runtime) -> None:
    from gfs_dist.selection.stop import Stop
    from tests.runtime.problems import matrix_problem

    task, problem = Square(), matrix_problem()
    first = local.search(problem, Stop(steps=20)).path
    for _ in range(2):
        assert list(local.map(task, ITEMS)) == SQUARES
        assert local.search(problem, Stop(steps=20)).path == first


MAIN = """
import os, sys, time
from gfs_dist.runtime import RuntimeSpec, open_runtime

class Mine:  # workers never run this file
    def run(self, item, device, tick):
        time.sleep(item)
        return item, os.getpid()

if __name__ == "__main__":
    with open_runtime(RuntimeSpec(kind=sys.argv[1], workers=2, threads=1)) as runtime:
        items = [0.01] * 20 if len(sys.argv) == 2 else [60.0] * 20
        started = runtime.map(Mine(), [0.1]).events
        print(*[row["pid"] for row in started if row["event"] == "rank_started"], flush=True)
        assert [item for item, _ in runtime.map(Mine(), items)] == items
"""


def script(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text(MAIN)
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_task_of_the_main_module_travels_by_value(tmp_path: Path) -> None:
    process = script(tmp_path, "local")
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("local", "SIGINT"),
        *(
            pytest.param(kind, how, marks=pytest.mark.slow)
            for kind, how in [("local", "GFS_FAULTS"), ("ray", "SIGINT"), ("ray", "GFS_FAULTS")]
        ),
    ],
)
def test_no_worker_outlives_a_map_that_is_broken_off(tmp_path: Path, kind: str, how: str) -> None:
    if how == "GFS_FAULTS":
        faults = json.dumps([{"rank": -1, "step": 5, "generation": 1}])
        process = script(tmp_path, kind, GFS_FAULTS=faults)
    else:
        process = script(tmp_path, kind, "long")
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2 and all(_alive(pid) for pid in pids)
    if how != "GFS_FAULTS":
        time.sleep(0.3)
        process.send_signal(signal.Signals[how])
    errors = process.communicate(timeout=30)[1]
    assert ("KeyboardInterrupt" in errors) == (how == "SIGINT")
    assert process.returncode == -signal.SIGKILL or how == "SIGINT"
    assert _wait_until_gone(pids, 5.0) == []
