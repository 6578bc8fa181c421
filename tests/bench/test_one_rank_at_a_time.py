"""Ranks that are timed alone do what they would do together."""

from __future__ import annotations

import pytest
import torch

from gfs_dist.bench.exchange_cost import ExchangeTask
from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime, RankTime, Record, Replay, record
from gfs_dist.errors import PicksDifferError
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.stop import Stop
from tests.runtime.problems import MatrixProblem, matrix_problem
from tests.selection.ranks import search

CPU = torch.device("cpu")
STOP = Stop(12)


def replay(problem: MatrixProblem, partition: Partition, rank: int, recorded: Record) -> RankTime:
    return Replay(problem, STOP, partition, recorded).run(rank, CPU, lambda: None)


def alone(problem: MatrixProblem) -> list[int]:
    objective = problem.objective(RankShare.whole(problem.num_candidates), CPU, lambda: None)
    return greedy(objective, STOP).picks


@pytest.mark.parametrize("method", ["panel", "lazy", "streaming"])
@pytest.mark.parametrize("ranks", [1, 2, 30])
def test_every_rank_of_every_partition_follows_the_record(method: str, ranks: int) -> None:
    problem = matrix_problem(3, method=method)
    recorded, timing = record(problem, STOP, CPU)
    assert recorded.path.picks == alone(problem)
    partition = Partition.contiguous(problem.num_candidates, ranks)
    for rank in range(ranks):
        own = replay(problem, partition, rank, recorded)
        assert len(own.stretches_s) == len(timing.stretches_s) == len(recorded.answers) + 1
        assert own.setup_s > 0
        assert own.peak_bytes > 0


def test_record_holds_what_ranks_really_exchange() -> None:
    given = matrix_problem(4)
    # No duplicates: whether a tie needs a third exchange depends on how losses are rounded.
    noise = torch.randn(40, 24, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    problem = MatrixProblem(given.contributions + noise, given.target, given.recipe)
    recorded, _ = record(problem, STOP, CPU)
    _, threads = search(
        lambda own: problem.objective(RankShare(own), CPU, lambda: None),
        Partition.contiguous(problem.num_candidates, 2),
        STOP,
    )
    assert sum(recorded.sizes) == threads.reduced_bytes + threads.shared_bytes


def test_a_rank_that_would_decide_otherwise_is_refused() -> None:
    problem, other = matrix_problem(5), matrix_problem(6)
    recorded, _ = record(other, STOP, CPU)
    partition = Partition.contiguous(problem.num_candidates, 2)
    with pytest.raises(PicksDifferError, match=r"rank \d of 2: (proposes \d+ where|exchanges)"):
        for rank in range(2):
            replay(problem, partition, rank, recorded)


def test_a_record_that_ends_early_is_refused() -> None:
    problem = matrix_problem(5)
    recorded, _ = record(problem, STOP, CPU)
    short = Record(recorded.path, recorded.answers[:-2])
    partition = Partition.contiguous(problem.num_candidates, 2)
    with pytest.raises(PicksDifferError, match="exchanges what the recorded search did not"):
        replay(problem, partition, 0, short)


def test_one_run_times_several_numbers_of_ranks() -> None:
    problem = matrix_problem(7)
    with OneRankAtATime([1, 2, 4], "cpu") as runtime:
        found = runtime.search(problem, STOP)
    ((recorded, timings),) = runtime.searches
    assert found.path.picks == recorded.path.picks == alone(problem)
    assert {ranks: len(own) for ranks, own in timings.items()} == {1: 1, 2: 2, 4: 4}
    assert runtime.inside_s >= sum(t.setup_s + sum(t.stretches_s) for t in timings[4])


def test_workers_replay_ranks_and_time_exchanges_alone() -> None:
    problem = matrix_problem(8)
    recorded, _ = record(problem, STOP, CPU)
    task = Replay(problem, STOP, Partition.contiguous(problem.num_candidates, 2), recorded)
    with open_runtime(RuntimeSpec("local", 2, "cpu", 1)) as runtime:
        assert [len(t.stretches_s) for t in runtime.map(task, range(2))] == [
            len(recorded.answers) + 1
        ] * 2
        exchanges = runtime.run_group(ExchangeTask(5, (64, 4096))).value
    assert list(exchanges) == [16, 64, 4096]
    for seconds in exchanges.values():
        assert 0 < seconds["minimum"] <= seconds["median"] <= seconds["maximum"]
