"""Any worker does any item, and whatever happens to workers all items are done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.errors import DataError, InputError, WorkersLostError
from gfs_dist.runtime import Fault, MapProgress, MapResult, Runtime, RuntimeSpec, open_runtime
from tests.runtime.tasks import (
    Counted,
    EndsItsReader,
    Generator,
    Hazard,
    Meet,
    Spin,
    Square,
    WaitForOthers,
)
from tests.runtime.test_driver_death import _alive, _wait_until_gone

ITEMS = list(range(24))
SQUARES = [n * n for n in ITEMS]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def local() -> Iterator[Runtime]:
    spec = RuntimeSpec(kind="local", workers=2, threads=1, hang_floor_s=2.5)
    with open_runtime(spec) as runtime:
        yield runtime


def disturbed(faults: list[Fault], item_s: float = 0.05, **spec: Any) -> MapResult:
    spec = {"kind": "local", "workers": 2, "threads": 1, "hang_floor_s": 2.5, **spec}
    with open_runtime(RuntimeSpec(**spec), faults) as runtime:
        return runtime.map(Square(item_s), ITEMS)


def test_results_come_in_the_order_of_items_and_news_as_they_happen(local: Runtime) -> None:
    told: list[MapProgress] = []
    found = local.map(Square(0.01), ITEMS, told.append)
    assert list(found) == SQUARES
    assert sorted((p.place, p.value) for p in told) == list(enumerate(SQUARES))
    assert [p.step for p in told] == [n + 1 for n in ITEMS]
    assert all(p.total == 24 and p.num_ranks == 2 for p in told)
    assert told[-1].steps_per_s > 0
    assert [e for p in told for e in p.events] == found.events[:-1]
    assert found.events[-1]["event"] == "finished"
    steps = [row for row in found.events if row["event"] == "step"]
    assert sorted(row["step"] for row in steps) == ITEMS


def test_an_idle_worker_takes_the_next_item(tmp_path: Path, local: Runtime) -> None:
    (first, *others) = local.map(WaitForOthers(tmp_path, 10), [*range(11)])
    assert len(set(others)) == 1  # one rank waited, the other did all the rest
    assert first[0] != others[0][0]
    assert {threads for _, threads in (first, *others)} == {1}


def test_ranks_keep_to_their_own_items(tmp_path: Path, local: Runtime) -> None:
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        task = WaitForOthers(tmp_path / str(number), number)
        found = [process for process, _ in local.map(task, [*range(8)], keep=True)]
        assert len({*found[:4]}) == len({*found[4:]}) == 1
        assert found[0] != found[4]


def test_what_a_lost_rank_kept_is_done_by_others(tmp_path: Path) -> None:
    spec = RuntimeSpec(kind="local", workers=2, threads=1, hang_floor_s=2.5)
    with open_runtime(spec) as runtime:
        found = runtime.map(Hazard(tmp_path, {5: "kill", 20: "kill"}), ITEMS, keep=True)
        assert list(found) == SQUARES
        assert len(found.faults) == 2
        assert list(runtime.map(Square(), ITEMS, keep=True)) == SQUARES


def test_timing_of_a_map_is_told_for_every_rank(local: Runtime) -> None:
    timing = local.map(Square(0.05), ITEMS).timing
    ranks = timing["ranks"]
    assert [row["rank"] for row in ranks] == [0, 1]
    assert sum(row["items"] for row in ranks) == 24
    assert 24 * 0.05 <= sum(row["compute_s"] for row in ranks) <= 2 * timing["steps_s"]
    for row in ranks:
        spent = row["setup_s"] + row["compute_s"] + row["wait_s"]
        assert spent == pytest.approx(timing["steps_s"], abs=0.2)
        assert row["peak_rss_bytes"] > 2**20


def test_a_task_is_sent_to_each_worker_once(tmp_path: Path, local: Runtime) -> None:
    def sent() -> Counter[str]:
        return Counter(file.name.partition("-")[0] for file in tmp_path.iterdir())

    task = Counted(tmp_path)
    for _ in range(3):
        assert list(local.map(task, ITEMS)) == ITEMS
    # A quick worker may take all items, so that the other never sees the task.
    assert set(sent().values()) == {1}
    before = sent()
    local.map(Counted(tmp_path), ITEMS)
    again = sent() - before
    assert again
    assert set(again.values()) == {1}


def test_a_map_of_nothing_is_empty(local: Runtime) -> None:
    assert list(local.map(Square(), [])) == []


def test_what_a_task_raises_is_raised_and_the_workers_live_on(local: Runtime) -> None:
    with pytest.raises(DataError, match="item: found 5, accepted others") as caught:
        local.map(Square(0.01, bad=5), ITEMS)
    assert "in a worker (pid" in caught.value.__notes__[0]
    with pytest.raises(ZeroDivisionError):
        local.map(Square(), ITEMS, lambda progress: 1 // 0)
    with pytest.raises(InputError, match="what Generator.run returned: found generator, accepted"):
        local.map(Generator(), ["abc"])
    with pytest.raises(InputError, match="item 1: found generator, accepted what can be pickled"):
        local.map(Square(), [1, (n for n in "abc")])
    assert list(local.map(Square(), ITEMS)) == SQUARES


def test_the_item_of_a_killed_worker_is_done_again() -> None:
    found = disturbed([Fault(0, 3)])
    assert list(found) == SQUARES
    (fault,) = found.faults
    assert (fault["rank"], fault["kind"]) == (0, "killed")
    assert fault["step"] in ITEMS
    assert fault["detected_s"] >= 0.0
    assert fault["recovered_s"] > 0.0
    first = next(row for row in found.events if row["event"] == "rank_started")
    rows = [r for r in found.events if r["event"] in ("fault", "recovered")]
    assert [(r["event"], r["rank"], r["step"]) for r in rows] == [
        ("fault", 0, fault["step"]),
        ("recovered", 0, fault["step"]),
    ]
    assert (rows[0]["pid"], rows[0]["generation"]) == (first["pid"], first["generation"])
    assert sum(row["items"] for row in found.timing["ranks"]) == 24


def test_a_stopped_worker_is_found_by_lack_of_ticks() -> None:
    found = disturbed([Fault(1, 2, "stop")])
    assert list(found) == SQUARES
    (fault,) = found.faults
    assert (fault["rank"], fault["kind"]) == (1, "hung")
    assert fault["detected_s"] > 2.0


def test_the_successor_of_a_lost_worker_joins_in(tmp_path: Path) -> None:
    spec = RuntimeSpec(kind="local", workers=2, threads=1)
    with open_runtime(spec, [Fault(0, 1)]) as runtime:
        found = runtime.map(Meet(tmp_path, 2), [5, 6])
    assert list(found) == [5, 6]
    assert [row["items"] for row in found.timing["ranks"]] == [1, 1]
    assert [r["rank"] for r in found.events if r["event"] == "rank_started"] == [0, 1, 0]


def test_without_replacement_the_others_do_the_items(
    monkeypatch: pytest.MonkeyPatch, limit_workers: Callable[[int], None]
) -> None:
    spec = RuntimeSpec(kind="local", workers=2, threads=1)
    with open_runtime(spec, [Fault(0, 4), Fault(0, 4, generation=1)]) as runtime:
        limit_workers(0)
        found = runtime.map(Square(0.05), ITEMS)
        assert list(found) == SQUARES
        assert [row["items"] for row in found.timing["ranks"]] == [3, 21]
        with pytest.raises(WorkersLostError, match="none is left and none could be started; t"):
            runtime.map(Square(0.05), ITEMS)
        monkeypatch.undo()
        assert list(runtime.map(Square(), ITEMS)) == SQUARES  # there is room again


def test_an_item_that_loses_three_workers_ends_the_map() -> None:
    spec = RuntimeSpec(kind="local", workers=3, threads=1)
    faults = [Fault(rank, 1, "exit") for rank in range(3)]
    with (
        open_runtime(spec, faults) as runtime,
        pytest.raises(
            WorkersLostError,
            match=r"item 0 \('one'\) lost 3 workers in a row; the last: rank . killed, .*status 1",
        ),
    ):
        runtime.map(Square(), ["one"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_many_faults_in_one_map(embedded_ray: None, tmp_path: Path, kind: str) -> None:
    faults = {0: "kill", 1: "exit", 4: "stop", 5: "kill", 6: "kill", 7: "exit", 23: "kill"}
    spec = RuntimeSpec(kind=kind, workers=3, threads=1, hang_floor_s=2.5)
    with open_runtime(spec, [Fault(1, 0)]) as runtime:
        found = runtime.map(Hazard(tmp_path, faults), ITEMS)
    assert list(found) == SQUARES
    seen = {f["step"]: f["kind"] for f in found.faults}
    kinds = {"kill": "killed", "exit": "killed", "stop": "hung"}
    assert seen == {None: "killed", **{n: kinds[kind] for n, kind in faults.items()}}
    assert len(found.faults) == 8
    assert all(f["recovered_s"] > 0 for f in found.faults)


def test_a_set_up_that_loses_three_workers_ends_the_map() -> None:
    with (
        open_runtime(RuntimeSpec(kind="local", workers=1, threads=1)) as runtime,
        pytest.raises(WorkersLostError, match="the set-up of rank 0 lost 3 workers in a row"),
    ):
        runtime.map(EndsItsReader(), ITEMS)


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
    assert fault < starts[1] < successor


def test_searches_and_maps_share_workers(local: Runtime) -> None:
    from gfs_dist.selection.stop import Stop
    from tests.runtime.problems import matrix_problem

    task, problem = Square(), matrix_problem()
    first = local.search(problem, Stop(steps=20)).path
    for _ in range(2):
        assert list(local.map(task, ITEMS)) == SQUARES
        assert local.search(problem, Stop(steps=20)).path == first


MAIN = """
import signal, sys, time
from gfs_dist.runtime import RuntimeSpec, open_runtime

class Mine:  # workers never run this file
    def run(self, item, device, tick):
        time.sleep(item)
        return item

if __name__ == "__main__":
    # A shell has programs that it starts in the background ignore this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open_runtime(RuntimeSpec(kind=sys.argv[1], workers=2, threads=1)) as runtime:
        found = runtime.map(Mine(), [0.1, 0.2])
        assert list(found) == [0.1, 0.2]
        started = [row for row in found.events if row["event"] == "rank_started"]
        print(*[row["pid"] for row in started], flush=True)
        runtime.map(Mine(), [float(sys.argv[2])] * 20)
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
        process = script(tmp_path, kind, "0.01", GFS_FAULTS=faults)
    else:
        process = script(tmp_path, kind, "60")
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2 and all(_alive(pid) for pid in pids)
    if how != "GFS_FAULTS":
        time.sleep(0.3)
        process.send_signal(signal.Signals[how])
    errors = process.communicate(timeout=600)[1]
    assert ("KeyboardInterrupt" in errors) == (how == "SIGINT")
    assert process.returncode == -signal.SIGKILL or how == "SIGINT"
    assert _wait_until_gone(pids, 5.0) == []
