"""Columns on demand: picks of the oracle, and the same bits whatever made a column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives import gram_columns
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from tests.selection.ranks import search

Build = Callable[[torch.Tensor], Objective]


def planted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Duplicates, zeros, near ties and common offsets; sizes around those of products."""
    rng = np.random.default_rng(seed)
    samples, neurons = int(rng.integers(60, 1300)), int(rng.choice([3, 24, 70, 239, 241, 500]))
    outputs = int(rng.choice([0, 0, 3]))
    shape = (samples, neurons, outputs) if outputs else (samples, neurons)
    contributions = rng.standard_normal(shape) * rng.uniform(0.2, 3.0, (neurons, *shape[2:]))
    some = rng.permutation(neurons)
    third = neurons // 3
    contributions[:, some[:third]] = contributions[:, some[third : 2 * third]]
    contributions[:, some[-1]] = 0.0
    near = contributions[:, some[0]]
    contributions[:, some[third]] = near * (1 + 1e-15 * rng.standard_normal(near.shape))
    target = contributions[:, some[: third + 1]].mean(1)
    target = target + 0.1 * rng.standard_normal(target.shape)
    level = float(rng.choice([0.0, 0.0, 1e6]))
    return contributions + level, target + level


def builder(
    contributions: np.ndarray,
    target: np.ndarray,
    dtype: torch.dtype = torch.float64,
    **rules: object,
) -> Build:
    source = ArrayContributions(torch.as_tensor(contributions).to(dtype))
    recipe = Recipe(**rules)
    return lambda own: make_objective(recipe, source, torch.as_tensor(target), own)


def alone(build: Build, neurons: int, stop: Stop, path: GreedyPath | None = None) -> GreedyPath:
    return greedy(build(torch.arange(neurons)), stop, path=path)


RULES = [
    {"weights": weights, "replacement": replacement}
    for weights in ("uniform", "line_search")
    for replacement in (True, False)
]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", range(6))
def test_picks_are_the_oracles_and_bits_those_of_one_rank(seed, rules) -> None:
    contributions, target = planted(seed)
    n, stop = contributions.shape[1], Stop(60)
    build = builder(contributions, target, method="lazy", **rules)
    path = alone(build, n, stop)
    oracle = alone(builder(contributions, target, method="exhaustive", **rules), n, stop)
    assert path.picks == oracle.picks
    np.testing.assert_allclose(path.loss, oracle.loss, rtol=1e-9, atol=1e-13)

    assert alone(builder(contributions, target, method="streaming", **rules), n, stop) == path
    shuffled, none = (
        torch.as_tensor(np.random.default_rng(seed).permutation(n)),
        torch.empty(0, dtype=torch.int64),
    )
    uneven = Partition([shuffled[:2], none, shuffled[2:]])
    for partition in (Partition.contiguous(n, 2), Partition.strided(n, 3), uneven):
        paths, _ = search(build, partition, stop)
        assert paths == [path] * partition.num_ranks
    half = len(path) // 2
    assert alone(build, n, stop, path.prefix(half)) == path
    paths, _ = search(build, Partition.strided(n, 2), stop, path.prefix(half))
    assert paths == [path] * 2


@pytest.mark.parametrize("method", ["lazy", "streaming"])
def test_float32_contributions_give_the_bits_of_the_same_numbers_in_float64(method) -> None:
    contributions, target = planted(1)
    contributions = contributions.astype(np.float32)
    n, stop = contributions.shape[1], Stop(60)
    narrow = builder(contributions, target, torch.float32, method=method)
    path = alone(narrow, n, stop)
    assert path == alone(builder(contributions, target, method="lazy"), n, stop)
    paths, _ = search(narrow, Partition.contiguous(n, 3), stop)
    assert paths == [path] * 3


def test_threads_change_no_bit() -> None:
    contributions, target = planted(2)
    n, stop = contributions.shape[1], Stop(60)
    paths, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            paths.append(alone(builder(contributions, target, method="lazy"), n, stop))
    finally:
        torch.set_num_threads(before)
    assert paths == [paths[0]] * 3


def test_columns_that_were_dropped_are_made_again(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    contributions = rng.standard_normal((60, 200))
    target = contributions[:, :50].mean(1)
    build, stop = builder(contributions, target, method="lazy"), Stop(300)
    path = alone(build, 200, stop)
    assert path.num_kept > 32
    monkeypatch.setattr(gram_columns, "LEAST_KEPT", 32)
    objective = build(torch.arange(200))
    assert greedy(objective, stop) == path
    assert len(objective.columns.held) == 32
    partition = Partition.strided(200, 3)
    objectives = [build(part) for part in partition.parts]
    paths, _ = search(None, partition, Stop(100), objectives=objectives)
    objectives[2] = build(partition.parts[2])
    paths, _ = search(None, partition, stop, paths[0], objectives)
    assert paths == [path] * 3


def test_a_rank_that_starts_anew_brings_the_others_to_the_same_columns() -> None:
    rng = np.random.default_rng(4)
    contributions = rng.standard_normal((60, 300))
    build = builder(contributions, contributions[:, :50].mean(1), method="lazy")
    path, partition = alone(build, 300, Stop(90)), Partition.strided(300, 3)
    objectives = [build(part) for part in partition.parts]
    paths, _ = search(None, partition, Stop(50), objectives=objectives)
    objectives[1] = build(partition.parts[1])
    paths, _ = search(None, partition, Stop(90), paths[0], objectives)
    assert paths == [path] * 3
    held = [list(objective.columns.held) for objective in objectives]
    assert held == held[:1] * 3
    passes = len(held[0]) / objectives[0].columns.at_once - 1
    assert passes < path.num_kept / 4  # the ranks that are ahead know what will be picked


def test_ranks_that_were_stopped_within_a_pass_go_on_with_the_columns_of_all() -> None:
    contributions, target = planted(10)
    n, stop = contributions.shape[1], Stop(60)
    build, partition = builder(contributions, target, method="lazy"), Partition.strided(n, 3)
    path = alone(build, n, stop)
    objectives = [build(part) for part in partition.parts]
    paths, _ = search(None, partition, Stop(30), objectives=objectives)
    objectives[1].columns.make(torch.arange(n, dtype=torch.float64))  # one had made more
    objectives[2].columns.keep(torch.arange(n) % 3)
    paths, _ = search(None, partition, stop, paths[0], objectives)
    assert paths == [path] * 3
    assert len({tuple(objective.columns.held) for objective in objectives}) == 1


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("method", ["lazy", "streaming"])
def test_no_pass_is_wasted_where_deviations_span_few_dimensions(method, replacement) -> None:
    """Once columns span them all, a run on ahead is exact, and a pass makes what will be picked."""
    rng = np.random.default_rng(5)
    factors, sizes = rng.standard_normal((500, 24)), rng.uniform(0.5, 2.0, 600)
    contributions = factors @ rng.standard_normal((24, 600)) * sizes
    target = contributions[:, :200].mean(1) + 0.1 * rng.standard_normal(500)
    runs = []
    source = ArrayContributions(torch.as_tensor(contributions))
    objective = make_objective(
        Recipe(method=method, replacement=replacement), source, torch.as_tensor(target),
        torch.arange(600), lambda: runs.append(1),
    )  # fmt: skip
    a_pass = len(runs)
    path = greedy(objective, Stop(150))
    needed = -(-path.num_kept // objective.columns.at_once)
    assert len(runs) / a_pass <= needed + 1  # the first one knows too little


def test_few_passes_serve_many_picks() -> None:
    rng = np.random.default_rng(5)
    contributions = rng.standard_normal((2000, 600))
    target = contributions[:, :35].mean(1) + 0.1 * rng.standard_normal(2000)
    runs = []
    source = ArrayContributions(torch.as_tensor(contributions))
    objective = make_objective(
        Recipe(method="lazy"), source, torch.as_tensor(target), torch.arange(600),
        lambda: runs.append(1),
    )  # fmt: skip
    a_pass = len(runs)
    path = greedy(objective, Stop(200))
    assert path.num_kept > 30
    assert len(runs) <= 7 * a_pass
