"""The loop in the workers against its parts: bare exchanges, and the same loop without any."""

from __future__ import annotations

import statistics

import torch

from gfs_dist.jobs.bare_search import cell
from gfs_dist.jobs.bench import Row, spread
from gfs_dist.jobs.cell_problem import CellProblem
from gfs_dist.jobs.select_cell import Cell
from gfs_dist.runtime import Runtime
from gfs_dist.runtime.bare import BareExchanges
from gfs_dist.runtime.replayed import ReplayTask, record
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.stop import Stop

QUICK = (64, 256, 400)
"""Samples, neurons and picks of a search whose steps are little more than their exchange."""


def exchange_row(runtime: Runtime, seed: int, repeats: int) -> Row:
    """What a step of a search exchanges, in the loop, against the same two reductions bare.

    Both by the same workers, by turns, and of both the mean: now and then a message waits for a
    core, in the loop as well as bare, which a median would not show. A panel's steps exchange 16
    bytes and nothing else; their batches of gaps, one in 32 steps, count here too.
    """
    problem = cell(*QUICK, seed, "panel")
    in_loop, bare = [], []
    for _ in range(1 + repeats):
        bare.append(runtime.together(BareExchanges(problem.picks)).value[16]["mean"])
        found = runtime.search(CellProblem(problem), Stop(problem.picks))
        in_loop.append(found.timing["exchange_s"] / len(found.path))
    return {
        "workers": runtime.num_ranks,
        "steps": problem.picks,
        "exchange_of_a_step_s": spread(in_loop[1:]),
        "bare_s": spread(bare[1:]),
        "over_bare": statistics.median(in_loop[1:]) / statistics.median(bare[1:]),
    }


def loop_row(runtime: Runtime, problem: Cell, repeats: int) -> Row:
    """A search by ranks against the same ranks replayed side by side: equal work, no exchanges.

    Both run in the same workers at the same time of day, by turns; memory is shared alike.
    """
    stop, ranks = Stop(problem.picks), runtime.num_ranks
    told, _ = record(CellProblem(problem), stop, torch.device("cpu"))
    partition = Partition.contiguous(problem.neurons, ranks)
    loops, replays = [], []
    for _ in range(1 + repeats):
        search = runtime.search(CellProblem(problem), stop)
        rows = search.timing["ranks"]
        loops.append(max(row["compute_s"] + row["exchange_s"] for row in rows))
        task = ReplayTask(CellProblem(problem), stop, partition, told)
        replays.append(max(sum(t.stretches_s) for t in runtime.map(task, range(ranks))))
    loop_s, replay_s = statistics.median(loops[1:]), statistics.median(replays[1:])
    return {
        "workers": ranks,
        "neurons": problem.neurons,
        "step_ms": replay_s / problem.picks * 1e3,
        "loop_s": spread(loops[1:]),
        "without_exchanges_s": spread(replays[1:]),
        "above": loop_s / replay_s - 1,
    }
