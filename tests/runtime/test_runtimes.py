"""The same picks from every runtime, number of ranks and partition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from gfs_dist.errors import InputError, NonFiniteError
from gfs_dist.runtime import Progress, Runtime, RuntimeSpec, open_runtime
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from tests.runtime.problems import MatrixProblem, matrix_problem

STEPS = Stop(steps=40)


def alone(problem: MatrixProblem, stop: Stop = STEPS) -> GreedyPath:
    with open_runtime(RuntimeSpec(kind="none")) as runtime:
        return runtime.search(problem, stop).path


@pytest.fixture(scope="module", params=[1, 3, 4])
def other_local(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with open_runtime(RuntimeSpec(kind="local", workers=request.param, threads=1)) as runtime:
        yield runtime


def partitions(num_candidates: int, num_ranks: int) -> list[Partition]:
    everything = torch.arange(num_candidates)
    empty = everything[:0]
    shuffled = torch.randperm(num_candidates, generator=torch.Generator().manual_seed(1))
    return [
        Partition.contiguous(num_candidates, num_ranks),
        Partition.strided(num_candidates, num_ranks),
        Partition([*[empty] * (num_ranks - 1), everything]),
        Partition([shuffled[r::num_ranks] for r in range(num_ranks)]),
        Partition.strided(num_candidates, 1),
    ]


def assert_same_picks(runtime: Runtime, method: str) -> None:
    problem = matrix_problem(seed=3, method=method)
    expected = alone(problem)
    for partition in partitions(problem.num_candidates, runtime.num_ranks):
        found = runtime.search(problem, STEPS, partition).path
        assert found.picks == expected.picks
        assert found.loss == pytest.approx(expected.loss, rel=1e-12)
        assert found.stop_reason == "steps"
        agreed = [(a, b) for a, b in zip(found.gap, expected.gap, strict=True) if b is not None]
        assert all(a == pytest.approx(b, abs=1e-12) for a, b in agreed)


@pytest.mark.parametrize("method", ["panel", "lazy", "streaming", "exhaustive"])
def test_two_ranks_pick_like_one_for_any_partition(local: Runtime, method: str) -> None:
    assert_same_picks(local, method)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["panel", "lazy", "streaming", "exhaustive"])
def test_any_number_of_ranks_picks_like_one(other_local: Runtime, method: str) -> None:
    assert_same_picks(other_local, method)


def test_ray_actors_pick_like_one_rank(embedded_ray: None) -> None:
    with open_runtime(RuntimeSpec(kind="ray", workers=3, threads=1)) as runtime:
        assert_same_picks(runtime, "lazy")


@pytest.mark.parametrize("graph", ["star", [(0, 1), (2, 1)]])
def test_ranks_on_a_graph_pick_like_one_with_more_workers_than_candidates(
    graph: str | list[tuple[int, int]],
) -> None:
    problem = matrix_problem(neurons=2)
    with open_runtime(RuntimeSpec(kind="local", workers=3, graph=graph, threads=1)) as runtime:
        found = runtime.search(problem, Stop(steps=5))
    assert found.path.picks == alone(problem, Stop(steps=5)).picks
    assert len(found.timing["ranks"]) == 3


def test_a_search_goes_on_from_a_path_and_leaves_it_alone(local: Runtime) -> None:
    problem = matrix_problem(seed=5)
    expected = alone(problem)
    begun = expected.prefix(17)
    assert local.search(problem, STEPS, path=begun).path.picks == expected.picks
    assert len(begun) == 17
    with open_runtime(RuntimeSpec(kind="none")) as runtime:
        assert runtime.search(problem, STEPS, path=begun).path.picks == expected.picks
    assert len(begun) == 17


def test_workers_do_not_go_on_from_what_another_search_left(local: Runtime) -> None:
    problem = matrix_problem(seed=6)
    other = replace(problem, target=-problem.target)
    for searched in (problem, problem, other, problem):
        for stop in (STEPS, Stop(steps=10)):
            assert local.search(searched, stop).path.picks == alone(searched, stop).picks


def test_progress_tells_every_pick_in_order_and_every_event_once(local: Runtime) -> None:
    seen: list[Progress] = []
    paths: list[GreedyPath] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        paths.append(progress.path.prefix(len(progress.path)))

    problem = matrix_problem(step_s=0.01)
    found = local.search(problem, Stop(steps=70), on_progress=on_progress)
    assert [p.phase for p in seen][:3] == ["start", "setup", "search"]
    assert paths[-1] == found.path
    assert len({len(path) for path in paths}) > 3
    for path in paths:
        k, whole = len(path), found.path
        told = (path.picks, path.loss, path.step_sizes)
        assert told == (whole.picks[:k], whole.loss[:k], whole.step_sizes[:k])
        known = k if path is paths[-1] else k - k % 32  # gaps are agreed on in batches
        assert path.gap == [*whole.gap[:known], *[None] * (k - known)]
    assert any(p.steps_per_s > 0 for p in seen)
    assert seen[-1].num_kept == len(set(found.path.picks))
    assert [row for p in seen for row in p.events] == found.events
    kinds = [row["event"] for row in found.events]
    assert kinds[:2] == ["rank_started"] * 2
    assert kinds[-1] == "finished"
    assert set(found.events[0]) == {"time", "event", "generation", "rank", "pid", "host", "step"}


def test_timing_is_told_for_every_rank(local: Runtime) -> None:
    timing = local.search(matrix_problem(step_s=0.01), STEPS).timing
    ranks = timing["ranks"]
    assert [row["rank"] for row in ranks] == [0, 1]
    assert min(row["wait_s"] for row in ranks) == 0.0
    assert timing["wait_s"] == max(row["wait_s"] for row in ranks)
    assert all(0.4 < row["compute_s"] < timing["steps_s"] for row in ranks)
    assert all(row["messages"] >= 2 * 40 and row["bytes"] > 0 for row in ranks)


def test_the_share_of_losses_that_was_evaluated_is_told(local: Runtime) -> None:
    problem = matrix_problem(method="lazy")
    assert local.search(problem, STEPS).timing["evaluated_share"] is None
    labels = (problem.target > 0).double()
    screened = replace(problem, target=labels, recipe=Recipe("bce", "screened"))
    found = local.search(screened, STEPS)
    assert 0.0 < found.timing["evaluated_share"] < 1.0
    assert found.path.picks == alone(screened).picks


def test_what_a_rank_refuses_is_raised_and_the_workers_live_on(local: Runtime) -> None:
    problem = matrix_problem()
    spoiled = problem.contributions.clone()
    spoiled[7, 20] = float("nan")
    with pytest.raises(NonFiniteError, match="neuron 20"):
        local.search(replace(problem, contributions=spoiled), STEPS)
    wrong = alone(problem).prefix(5)
    wrong.loss[4] += 0.1
    with pytest.raises(InputError, match="the recorded loss of pick 5"):
        local.search(problem, STEPS, path=wrong)
    found = local.search(problem, STEPS)
    assert found.path.picks == alone(problem).picks
    assert found.faults == []


def test_a_partition_of_other_candidates_is_refused(local: Runtime) -> None:
    with pytest.raises(InputError, match="partition: found 5 candidates, accepted 24"):
        local.search(matrix_problem(), STEPS, Partition.contiguous(5, 2))


def test_an_interrupted_search_leaves_workers_that_work(local: Runtime) -> None:
    problem = matrix_problem(step_s=0.02)

    def interrupt(progress: Progress) -> None:
        if len(progress.path) > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.search(problem, STEPS, on_progress=interrupt)
    assert local.search(problem, STEPS).path.picks == alone(problem).picks


def test_logs_go_to_a_file_a_rank(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("logs")
    spec = RuntimeSpec(kind="local", workers=1, threads=1, log_folder=str(folder))
    with open_runtime(spec) as runtime:
        runtime.search(matrix_problem(), STEPS)
    assert "finished (steps) after step 40" in (folder / "rank_0.log").read_text()
