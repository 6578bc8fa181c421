"""The loop in the workers against its parts: bare exchanges, and the same loop without any."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.bench.bare import BareExchanges, least_over_ranks
from gfs_dist.bench.cell_problem import CellProblem
from gfs_dist.bench.replay import ReplayTask, record
from gfs_dist.bench.suite import Row, spread
from gfs_dist.bench.two_layer_cell import Cell
from gfs_dist.bench.two_layer_search import cell
from gfs_dist.runtime import Peers, Runtime, Tick
from gfs_dist.runtime.collectives import GroupCommunicator
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.stop import Stop

QUICK = (64, 256, 400)
"""Samples, neurons and picks of a search whose steps are little more than their exchange."""


class Stopwatch(GroupCommunicator):
    """Keeps the seconds of each exchange, whatever it takes besides the message included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def minimum(self, values: Tensor) -> Tensor:
        began = time.perf_counter()
        found = super().minimum(values)
        self.seconds.append(time.perf_counter() - began)
        return found


@dataclass(frozen=True)
class LoopExchanges:
    """A group task: a search whose exchanges are timed. Its method shares no columns.

    Attributes:
        problem, stop: of the search.
    """

    problem: CellProblem
    stop: Stop

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> tuple[float, float]:
        """Seconds of exchanges a step: on the rank that comes last to each, and on this one."""
        partition = Partition.contiguous(self.problem.num_candidates, peers.num_ranks)
        objective = self.problem.objective(partition.share(peers.rank), device, lambda: tick(0))
        stopwatch = Stopwatch()
        path = greedy(objective, self.stop, stopwatch, partition)
        least, own = sum(least_over_ranks(stopwatch.seconds)), sum(stopwatch.seconds)
        return least / len(path), own / len(path)


def exchange_row(runtime: Runtime, seed: int, repeats: int) -> Row:
    """What a step of a search exchanges, in the loop, against the same two reductions bare.

    Both by the same workers, by turns. Of each exchange the time of the rank that comes last to it
    counts, the others also wait for its computing; and of all the mean: now and then a message
    waits for a core, in the loop as well as bare, which a median would not show. A panel's steps
    exchange 16 bytes and nothing else; their batches of gaps, one in 32 steps, count here too.
    """
    problem = cell(*QUICK, seed, "panel")
    task = LoopExchanges(CellProblem(problem), Stop(problem.picks))
    in_loop, with_waiting, bare = [], [], []
    for _ in range(1 + repeats):
        bare.append(runtime.run_group(BareExchanges(problem.picks)).value[16]["mean"])
        least, own = runtime.run_group(task).value
        in_loop.append(least)
        with_waiting.append(own)
    return {
        "workers": runtime.num_ranks,
        "steps": problem.picks,
        "exchange_of_a_step_s": spread(in_loop[1:]),
        "with_waiting_s": spread(with_waiting[1:]),
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
