"""The objectives of whole networks with worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gfs_dist.pruning.layerwise.fisher import (
    DerivativesTask,
    FisherProblem,
    gate_derivatives,
    join_derivatives,
    read_derivatives,
)
from gfs_dist.pruning.layerwise.network_loss import NetworkLossProblem
from gfs_dist.pruning.layerwise.sampling import Sampling
from gfs_dist.runtime import Runtime, RuntimeSpec, open_runtime
from gfs_dist.selection.build import Recipe
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.stop import Stop
from tests.pruning.layerwise.problems import CPU, make

RECIPE = Recipe(replacement=False)


@pytest.fixture(scope="module")
def workers() -> Iterator[Runtime]:
    with open_runtime(RuntimeSpec(kind="local", workers=3, threads=1)) as runtime:
        yield runtime


def test_three_workers_find_the_path_of_one(workers: Runtime, tmp_path: Path) -> None:
    problem = make("wide", samples=9, dtype=torch.float32)
    search = NetworkLossProblem(
        problem.workspace(tmp_path), problem.layer("first"), RECIPE, Sampling(batch=7)
    )
    alone = greedy(search.objective(torch.arange(40), CPU, lambda: None), Stop(steps=10))
    found = workers.search(search, Stop(steps=10)).path
    assert (found.picks, found.loss) == (alone.picks, alone.loss)


def test_derivatives_made_by_three_workers_are_those_of_one(
    workers: Runtime, tmp_path: Path
) -> None:
    problem = make("plain CNN", samples=9, dtype=torch.float32)
    workspace = problem.workspace(tmp_path)
    parts = range(len(workspace.groups()))
    files = workers.map(DerivativesTask(workspace, problem.structure), parts)
    joined = tmp_path / "derivatives.safetensors"
    join_derivatives(list(files), joined)
    alone = gate_derivatives(workspace.dense(), problem.structure, workspace.batches())
    for layer in problem.structure.layers:
        assert torch.equal(read_derivatives(joined, layer.name), alone[layer.name])
        fisher = FisherProblem(layer.name, layer.num_candidates, str(joined), RECIPE)
        everyone = torch.arange(layer.num_candidates)
        path = greedy(fisher.objective(everyone, CPU, lambda: None), Stop(steps=99))
        assert workers.search(fisher, Stop(steps=99)).path.picks == path.picks
