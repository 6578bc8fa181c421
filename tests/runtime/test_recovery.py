"""Whatever happens to workers, the run ends with the picks of an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gfs_dist.errors import WorkersLostError
from gfs_dist.runtime import Fault, RuntimeSpec, SearchResult, open_runtime
from gfs_dist.selection.stop import Stop
from tests.runtime.problems import matrix_problem

STOP = Stop(steps=40)
PROBLEM = matrix_problem(seed=2, step_s=0.003)


@pytest.fixture(scope="module")
def expected() -> list[int]:
    with open_runtime(RuntimeSpec(kind="none")) as runtime:
        return runtime.search(PROBLEM, STOP).path.picks


def disturbed(faults: list[Fault], **spec: Any) -> SearchResult:
    spec = {"kind": "local", "workers": 2, "threads": 1, **spec}
    with open_runtime(RuntimeSpec(**spec), faults) as runtime:
        return runtime.search(PROBLEM, STOP)


def test_a_killed_process_is_replaced(expected: list[int]) -> None:
    result = disturbed([Fault(0, 20)])
    assert result.path.picks == expected
    (fault,) = result.faults
    assert (fault["rank"], fault["kind"], fault["step"]) == (0, "killed", 19)
    assert fault["detected_s"] >= 0.0
    assert fault["recovered_s"] > 0.0
    kinds = [row["event"] for row in result.events]
    assert [k for k in kinds if k in ("fault", "recovered", "finished")] == [
        "fault",
        "recovered",
        "finished",
    ]
    assert kinds.count("rank_started") == 4


def test_a_killed_actor_is_replaced(embedded_ray: None, expected: list[int]) -> None:
    result = disturbed([Fault(1, 20)], kind="ray")
    assert result.path.picks == expected
    assert [f["kind"] for f in result.faults] == ["killed"]


def test_a_stopped_process_is_found_by_lack_of_progress(expected: list[int]) -> None:
    result = disturbed([Fault(1, 20, "stop")], hang_floor_s=1.5)
    assert result.path.picks == expected
    (fault,) = result.faults
    assert (fault["rank"], fault["kind"]) == (1, "hung")
    assert fault["detected_s"] > 1.0


@pytest.mark.parametrize("rank", [0, 1])
def test_connections_that_are_cut_are_made_again(expected: list[int], rank: int) -> None:
    result = disturbed([Fault(rank, 20, "cut")], workers=3)
    assert result.path.picks == expected
    assert [fault["kind"] for fault in result.faults] == ["collective"]
    started = [row for row in result.events if row["event"] == "rank_started"]
    assert [row["generation"] for row in started] == [0, 0, 0, 1, 1, 1]
    assert len({row["pid"] for row in started}) == 3  # none was replaced


def test_without_replacement_it_goes_on_with_fewer(
    limit_workers: Callable[[int], None], expected: list[int]
) -> None:
    limit_workers(3)
    result = disturbed([Fault(0, 20)], workers=3, graph=[(0, 1), (0, 2)])
    assert result.path.picks == expected
    assert len(result.timing["ranks"]) == 2
    (graph,) = [row for row in result.events if row["event"] == "graph"]
    assert graph["edges"] == [[0, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1, 2, 40])
@pytest.mark.parametrize("rank", [0, 2])
def test_any_rank_may_die_at_any_step(rank: int, step: int, expected: list[int]) -> None:
    result = disturbed([Fault(rank, step)], workers=3)
    assert result.path.picks == expected
    assert [f["rank"] for f in result.faults] == [rank]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_many_faults_in_one_run(embedded_ray: None, kind: str, expected: list[int]) -> None:
    faults = [
        Fault(1, 1),
        Fault(0, 10, generation=1),
        Fault(1, 10, generation=1),
        Fault(1, 11, "exit", generation=2),
        Fault(0, 30, "stop", generation=3),
        Fault(0, 40, generation=4),
    ]
    result = disturbed(faults, kind=kind, hang_floor_s=1.5)
    assert result.path.picks == expected
    assert [f["kind"] for f in result.faults] == ["killed"] * 4 + ["hung", "killed"]


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["line", "ring", "star"])
def test_ranks_on_a_graph_are_replaced_too(graph: str, expected: list[int]) -> None:
    result = disturbed([Fault(1, 20)], workers=3, graph=graph)
    assert result.path.picks == expected
    assert [f["kind"] for f in result.faults] == ["killed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_a_spare_steps_in(embedded_ray: None, kind: str, expected: list[int]) -> None:
    spec = RuntimeSpec(kind=kind, workers=2, spares=1, threads=1)
    with open_runtime(spec, [Fault(1, 20, generation=1), Fault(0, 20, generation=4)]) as runtime:
        for _ in range(3):  # by then the spare is up
            result = runtime.search(PROBLEM, STOP)
            assert result.path.picks == expected
    assert len(result.timing["ranks"]) == 2


@pytest.mark.slow
def test_when_no_generation_makes_a_step_it_gives_up() -> None:
    faults = [Fault(1, 5, generation=g) for g in range(4)]
    with pytest.raises(
        WorkersLostError,
        match="3 attempts in a row made no step after step 4; the last fault: rank 1 killed",
    ):
        disturbed(faults)


def test_when_nothing_can_be_started_it_says_so(limit_workers: Callable[[int], None]) -> None:
    limit_workers(0)
    with pytest.raises(WorkersLostError, match="workers: none could be started within 60 s"):
        disturbed([])
