"""The objectives of whole networks with worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime
from gfs_dist.errors import InputError
from gfs_dist.pruning.objectives.evaluation_batches import Sampling
from gfs_dist.pruning.objectives.fisher import DerivativesTask, FisherProblem, gate_derivatives
from gfs_dist.pruning.objectives.network_loss import NetworkLossProblem
from gfs_dist.runtime import Fault, Runtime, RuntimeSpec, open_runtime
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.stop import Stop
from tests.pruning.problems import CPU, make

RECIPE = Recipe(replacement=False)


@pytest.fixture(scope="module")
def workers() -> Iterator[Runtime]:
    with open_runtime(RuntimeSpec(kind="local", workers=3, threads=1)) as runtime:
        yield runtime


@pytest.fixture
def search(tmp_path: Path) -> NetworkLossProblem:
    problem = make("wide", samples=9, dtype=torch.float32)
    workspace = problem.workspace(tmp_path)
    return NetworkLossProblem(workspace, problem.layer("first"), RECIPE, Sampling(batch=7))


def test_three_workers_find_the_path_of_one(workers: Runtime, search: NetworkLossProblem) -> None:
    alone = greedy(search.objective(RankShare.whole(40), CPU, lambda: None), Stop(steps=10))
    found = workers.search(search, Stop(steps=10)).path
    assert (found.picks, found.loss) == (alone.picks, alone.loss)
    strided = workers.search(search, Stop(steps=10), Partition.strided(40, 3)).path
    assert (strided.picks, strided.loss) == (alone.picks, alone.loss)
    with pytest.raises(InputError, match="partition: found 39 candidates, accepted 40"):
        workers.search(search, Stop(steps=10), Partition.contiguous(39, 3))


def test_a_worker_that_is_lost_changes_no_loss(search: NetworkLossProblem) -> None:
    alone = greedy(search.objective(RankShare.whole(40), CPU, lambda: None), Stop(steps=12))
    faults = [Fault(rank=1, step=4), Fault(rank=0, step=8, generation=1)]
    spec = RuntimeSpec(kind="local", workers=3, threads=1, spares=1)
    with open_runtime(spec, faults) as runtime:
        found = runtime.search(search, Stop(steps=12))
    assert [row["kind"] for row in found.faults] == ["killed", "killed"]
    assert (found.path.picks, found.path.loss) == (alone.picks, alone.loss)


def test_ranks_that_are_timed_alone_follow_the_record(search: NetworkLossProblem) -> None:
    with OneRankAtATime([1, 2, 4], "cpu") as runtime:
        found = runtime.search(search, Stop(steps=5)).path
    ((record, timings),) = runtime.searches
    assert found.picks == record.path.picks
    assert {ranks: len(own) for ranks, own in timings.items()} == {1: 1, 2: 2, 4: 4}
    assert record.sizes.count(40 * 8) == 1  # the sums of a step: one chunk, candidates, float64


def test_derivatives_made_by_three_workers_are_those_of_one(
    workers: Runtime, tmp_path: Path
) -> None:
    problem = make("plain CNN", samples=9, dtype=torch.float32)
    workspace = problem.workspace(tmp_path)
    parts = range(len(workspace.parts()))
    files = tuple(workers.map(DerivativesTask(workspace, problem.structure), parts))
    alone = gate_derivatives(workspace.dense(), problem.structure, workspace.batches())
    for layer in problem.structure.layers:
        joined = torch.cat([load_file(file)[layer.name] for file in files])
        assert torch.equal(joined, alone[layer.name])
        recipe = Recipe(method="panel", replacement=False)
        fisher = FisherProblem(layer.name, layer.num_candidates, files, recipe)
        whole = RankShare.whole(layer.num_candidates)
        path = greedy(fisher.objective(whole, CPU, lambda: None), Stop(steps=99))
        assert workers.search(fisher, Stop(steps=99)).path.picks == path.picks
