"""All ranks do one task, and whatever happens to them it comes to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.errors import DataError, WorkersLostError
from gfs_dist.runtime import (
    Fault,
    GroupProgress,
    GroupResult,
    Runtime,
    RuntimeSpec,
    open_runtime,
)
from tests.runtime.tasks import Count, Square

TOTAL = float(sum(range(21)))


def disturbed(
    folder: Path, faults: list[Fault], told: list[GroupProgress] | None = None, **spec: Any
) -> GroupResult:
    spec = {"kind": "local", "workers": 2, "threads": 1, "hang_floor_s": 2.5, **spec}
    on_progress = None if told is None else told.append
    with open_runtime(RuntimeSpec(**spec), faults) as runtime:
        return runtime.run_group(Count(folder, step_s=0.01), on_progress)


def test_what_rank_0_returns_and_tells_reaches_the_caller(tmp_path: Path, local: Runtime) -> None:
    told: list[GroupProgress] = []
    found = local.run_group(Count(tmp_path, step_s=0.02), told.append)
    assert (found.value["total"], found.value["ranks"]) == (TOTAL, 2)
    values = [value for progress in told for value in progress.values]
    assert values == [(k, float(sum(range(k + 1)))) for k in range(1, 21)]
    assert {progress.phase for progress in told} == {"start", "setup", "work"}
    assert any(progress.steps_per_s > 0 for progress in told)
    assert [e for progress in told for e in progress.events] == found.events
    ranks = found.timing["ranks"]
    assert found.value["pid"] == ranks[0]["pid"]
    assert all(row["messages"] >= 20 and row["exchange_s"] > 0 for row in ranks)
    assert all(0.35 < row["compute_s"] < found.timing["steps_s"] for row in ranks)
    assert found.faults == []


def test_ray_actors_do_items_and_work_together(embedded_ray: None, tmp_path: Path) -> None:
    faults = [Fault(1, 3), Fault(2, 8, generation=2)]
    with open_runtime(RuntimeSpec(kind="ray", workers=3, threads=1), faults) as runtime:
        squares = runtime.map(Square(0.05), [*range(24)])
        assert list(squares) == [n * n for n in range(24)]
        assert [(f["rank"], f["kind"]) for f in squares.faults] == [(1, "killed")]
        assert list(runtime.map(Square(), [5])) == [25]
        found = runtime.run_group(Count(tmp_path))
    assert (found.value["total"], found.value["first"], found.value["ranks"]) == (TOTAL, 5, 3)
    assert [(f["rank"], f["kind"]) for f in found.faults] == [(2, "killed")]


def test_what_any_rank_raises_is_raised_and_the_workers_live_on(
    tmp_path: Path, local: Runtime
) -> None:
    with pytest.raises(DataError, match="rank 1 refuses") as caught:
        local.run_group(Count(tmp_path, bad=1))
    assert "in a worker (pid" in caught.value.__notes__[0]
    assert local.run_group(Count(tmp_path)).value["total"] == TOTAL
    assert list(local.map(Square(), [1, 2, 3])) == [1, 4, 9]


def test_an_interrupted_group_leaves_workers_that_work(tmp_path: Path, local: Runtime) -> None:
    def interrupt(progress: GroupProgress) -> None:
        if progress.step > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.run_group(Count(tmp_path, step_s=0.05), interrupt)
    found = local.run_group(Count(tmp_path)).value
    assert (found["total"], found["ranks"]) == (TOTAL, 2)
    assert found["first"] >= 5


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_after_a_kill_the_task_goes_on_from_its_checkpoint(tmp_path: Path, rank: int) -> None:
    told: list[GroupProgress] = []
    found = disturbed(tmp_path, [Fault(rank, 13)], told)
    assert (found.value["total"], found.value["first"], found.value["ranks"]) == (TOTAL, 10, 2)
    (fault,) = found.faults
    assert (fault["rank"], fault["kind"], fault["step"]) == (rank, "killed", 13)
    assert fault["detected_s"] >= 0.0
    assert fault["recovered_s"] > 0.0
    assert dict(v for p in told for v in p.values)[20] == TOTAL
    assert "recovering" in {progress.phase for progress in told}
    kinds = [row["event"] for row in found.events]
    assert kinds.count("rank_started") == 4
    assert [k for k in kinds if k in ("fault", "recovered", "finished")] == [
        "fault",
        "recovered",
        "finished",
    ]


def test_without_replacement_it_goes_on_with_fewer_ranks(
    limit_workers: Callable[[int], None], tmp_path: Path
) -> None:
    limit_workers(2)
    found = disturbed(tmp_path, [Fault(0, 13)])
    assert (found.value["total"], found.value["first"], found.value["ranks"]) == (TOTAL, 10, 1)
    assert len(found.timing["ranks"]) == 1


@pytest.mark.slow
def test_a_stopped_rank_is_found_by_lack_of_progress(tmp_path: Path) -> None:
    found = disturbed(tmp_path, [Fault(1, 13, "stop")])
    assert (found.value["total"], found.value["first"]) == (TOTAL, 10)
    (fault,) = found.faults
    assert (fault["rank"], fault["kind"]) == (1, "hung")
    assert fault["detected_s"] > 2.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_many_faults_in_one_group_task(embedded_ray: None, tmp_path: Path, kind: str) -> None:
    faults = [
        Fault(1, 0),
        Fault(0, 6, generation=1),
        Fault(1, 11, "exit", generation=2),
        Fault(0, 16, "stop", generation=3),
        Fault(1, 20, generation=4),
    ]
    found = disturbed(tmp_path, faults, kind=kind)
    assert found.value["total"] == TOTAL
    assert [f["kind"] for f in found.faults][:4] == ["killed", "killed", "killed", "hung"]
    assert all(f["recovered_s"] is not None for f in found.faults)


@pytest.mark.slow
def test_when_no_generation_comes_further_it_gives_up(tmp_path: Path) -> None:
    faults = [Fault(1, 13), *(Fault(1, 12, generation=g) for g in (1, 2, 3))]
    with pytest.raises(
        WorkersLostError,
        match="3 attempts in a row made no step after step 13; the last fault: rank 1 killed",
    ):
        disturbed(tmp_path, faults)
