"""What exchanges cost: by themselves, and in the loop of a search."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gfs_dist.bench.model.timing_model import Exchange, Spread, spread
from gfs_dist.bench.one_rank_at_a_time import Replay, record
from gfs_dist.bench.search_time import Placement
from gfs_dist.bench.suite import Row, SuiteReport
from gfs_dist.bench.two_layer_cell import Cell, CellProblem
from gfs_dist.runtime import Peers, Runtime, RuntimeSpec, Tick, open_runtime
from gfs_dist.runtime.collectives import GroupCommunicator
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.stop import Stop

GROUPS = (2, 4)
ROUNDS, WARM_UP = 300, 20
DECISION_BYTES = 16
SIZES = (2**12, 2**18, 2**22)
DECISION, BROADCAST = "two reductions of 8 bytes", "broadcast"
QUICK = (64, 256, 400)
"""Samples, neurons and picks of a search whose steps are little more than their exchange."""


@dataclass(frozen=True)
class ExchangeTask:
    """A group task that times what a step exchanges, without any search.

    Attributes:
        rounds: timed of each kind.
        sizes: bytes of the tensors that are broadcast, by each rank in turn.
    """

    rounds: int
    sizes: tuple[int, ...] = ()

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> dict[int, Spread]:
        """Seconds by bytes, over rounds.

        Of 16: the two reductions of a step, a float64 and an int64 of one number each, one after
        the other as they are there, on the rank that comes last to them. Of the sizes: one
        broadcast, on the rank that is asked.
        """
        value = torch.zeros(1, dtype=torch.float64, device=device)
        index = torch.zeros(1, dtype=torch.int64, device=device)

        def decide(_: int) -> None:
            dist.all_reduce(value, op=dist.ReduceOp.MIN)
            value.item()
            dist.all_reduce(index, op=dist.ReduceOp.MIN)
            index.item()

        found = {DECISION_BYTES: _with_mean(least_over_ranks(self._time(peers, decide)))}
        for step, size in enumerate(self.sizes, start=1):
            tensor = torch.zeros(max(1, size // 8), dtype=torch.float64, device=device)

            def send(number: int, tensor: Tensor = tensor) -> None:
                dist.broadcast(tensor, src=number % peers.num_ranks)
                tensor[0].item()

            found[size] = _with_mean(self._time(peers, send))
            tick(step)
        return found

    def _time(self, peers: Peers, once: Callable[[int], None]) -> list[float]:
        seconds = []
        for number in range(WARM_UP + self.rounds):
            if number == WARM_UP:
                peers.barrier()
            began = time.perf_counter()
            once(number)
            seconds.append(time.perf_counter() - began)
        return seconds[WARM_UP:]


def least_over_ranks(seconds: list[float]) -> list[float]:
    """Of each exchange the time of the rank that came last to it, and so did not wait."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    least = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return least.tolist()


def _with_mean(seconds: list[float]) -> Spread:
    return {**spread(seconds), "mean": statistics.fmean(seconds)}


def measure_exchanges(placement: Placement, report: SuiteReport) -> Exchange:
    """The reductions of a step and broadcasts, in groups of 2 and 4 ranks on CPUs.

    They are ranks of the kind that the configuration asks for, local ones where it asks for none.
    Their table is added to the report. In the model that is fitted a decision is two exchanges of
    8 bytes; what bytes cost is that of broadcasts: reductions of as many take up to twice as long.
    """
    rows, points = list[Row](), []
    for ranks in GROUPS:
        report.reporter.phase(f"exchanges of {ranks} ranks")
        none = placement.runtime.kind == "none"
        spec = RuntimeSpec("local", ranks, "cpu", 1) if none else placement.spec(ranks, 1, "cpu")
        with open_runtime(spec) as runtime:
            found = runtime.run_group(ExchangeTask(ROUNDS, SIZES)).value
        for size, seconds in found.items():
            exchange, parts = (DECISION, 2) if size == DECISION_BYTES else (BROADCAST, 1)
            points.append((ranks, size // parts, seconds["median"] / parts))
            rows.append({
                "workers": ranks, "runtime": spec.kind, "exchange": exchange, "bytes": size,
                "seconds": seconds,
            })  # fmt: skip
        decision_s = found[DECISION_BYTES]["median"]
        report.reporter.note(f"{DECISION}, {ranks} ranks: {decision_s * 1e6:.0f} us")
    report.tables["exchanges"] += rows
    return Exchange.fit(points)


class _Stopwatch(GroupCommunicator):
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
class LoopExchangeTask:
    """A group task: a search whose exchanges are timed."""

    problem: CellProblem
    stop: Stop

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> tuple[float, float]:
        """Seconds of exchanges a step: on the rank that comes last to each, and on this one."""
        partition = Partition.contiguous(self.problem.num_candidates, peers.num_ranks)
        objective = self.problem.objective(partition.share(peers.rank), device, lambda: tick(0))
        stopwatch = _Stopwatch()
        path = greedy(objective, self.stop, stopwatch, partition)
        least, own = sum(least_over_ranks(stopwatch.seconds)), sum(stopwatch.seconds)
        return least / len(path), own / len(path)


@dataclass(frozen=True)
class LoopExchange:
    """Seconds of what a step exchanges, in a loop and by itself."""

    workers: int
    steps: int
    exchange_of_a_step_s: Spread
    with_waiting_s: Spread
    bare_s: Spread
    over_bare: float


def exchange_in_loop(runtime: Runtime, seed: int, repeats: int) -> LoopExchange:
    """What a step of a search exchanges, in the loop, against the same two reductions alone.

    Both by the same workers, by turns. Of each exchange the time of the rank that comes last to it
    counts, the others also wait for its computing; and of all the mean: now and then a message
    waits for a core, in the loop as well as without it, which a median would not show. Steps
    exchange 16 bytes; their batches of gaps, one in 32 steps, and the losses of all candidates,
    where columns are made, count too.
    """
    cell = Cell.of_ranks(*QUICK, seed)
    task = LoopExchangeTask(CellProblem(cell), Stop(cell.picks))
    in_loop, with_waiting, alone = [], [], []
    for _ in range(1 + repeats):
        exchanges = runtime.run_group(ExchangeTask(cell.picks)).value
        alone.append(exchanges[DECISION_BYTES]["mean"])
        least, own = runtime.run_group(task).value
        in_loop.append(least)
        with_waiting.append(own)
    loop, waiting, bare = (spread(seconds[1:]) for seconds in (in_loop, with_waiting, alone))
    over_bare = loop["median"] / bare["median"]
    return LoopExchange(runtime.num_ranks, cell.picks, loop, waiting, bare, over_bare)


def loop_without_exchanges(runtime: Runtime, cell: Cell, repeats: int) -> Row:
    """A search by ranks against the same ranks replayed side by side: equal work, no exchanges.

    Both run in the same workers at the same time of day, by turns; memory is shared alike.
    """
    stop, ranks = Stop(cell.picks), runtime.num_ranks
    recorded, _ = record(CellProblem(cell), stop, torch.device("cpu"))
    partition = Partition.contiguous(cell.neurons, ranks)
    loops, replays = [], []
    for _ in range(1 + repeats):
        rows = runtime.search(CellProblem(cell), stop).timing["ranks"]
        loops.append(max(row["compute_s"] + row["exchange_s"] for row in rows))
        task = Replay(CellProblem(cell), stop, partition, recorded)
        replays.append(max(sum(one.stretches_s) for one in runtime.map(task, range(ranks))))
    loop_s, replay_s = statistics.median(loops[1:]), statistics.median(replays[1:])
    return {
        "workers": ranks,
        "neurons": cell.neurons,
        "step_ms": replay_s / cell.picks * 1e3,
        "loop_s": spread(loops[1:]),
        "without_exchanges_s": spread(replays[1:]),
        "above": loop_s / replay_s - 1,
    }
