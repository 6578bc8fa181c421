"""The least that a search could take on this machine: rates measured here and now, and the time of
its multiply-adds, bytes and exchanges at those rates.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from gfs_dist.bench.model.splits import LayerWork
from gfs_dist.bench.model.timing_model import Exchange, spread
from gfs_dist.bench.search_time import SearchTime
from gfs_dist.bench.suite import Row
from gfs_dist.bench.two_layer_cell import Cell, CellProblem
from gfs_dist.runtime.resources import forget_peak, peak_bytes
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from gfs_dist.workflows.process import use_threads

NUMBER_BYTES = 8
"""Of a float64."""
STEP_NUMBERS = 5
"""Numbers of a candidate that a step must touch: norm, correlation, product with the picks (read
and written), Gram column."""
TINY = 8
"""Candidates and samples of a search that only takes the time of its loop."""
TINY_PICKS, TINY_REPEATS = 50, 3
MATRIX = 1024
WARM_UP = 2


def single_process_row(cell: Cell, device: str, threads: int, repeats: int) -> Row:
    """Picks per second of one process, beside the floor of each step.

        floor = max(bytes / bandwidth, multiply-adds / rate) + K loop

    A new pick reads all contributions; every step reads and writes :data:`STEP_NUMBERS` numbers of
    each candidate. Bandwidth is that of a sum over as many numbers as there are contributions,
    ``loop`` the step of the same search on 8 neurons and 8 samples: all measured here and now.
    """
    where, numbers = torch.device(device), cell.samples * cell.neurons
    with use_threads(threads):
        forget_peak()
        seconds, path = _steps(cell, where, repeats)
        loop_s = loop_step_s(cell, where, repeats)
        bytes_per_s = _read_rate(numbers, where)
        macs_per_s = product_rate(where, torch.float64)
    new, steps = path.num_kept, spread(seconds)
    num_bytes = NUMBER_BYTES * (new * numbers + len(path) * STEP_NUMBERS * cell.neurons)
    bytes_s = num_bytes / bytes_per_s
    macs_s = (new * numbers + len(path) * cell.neurons) / macs_per_s
    return {
        "suite": "single",
        "neurons": cell.neurons,
        "samples": cell.samples,
        "device": device,
        "threads": threads,
        "picks": len(path),
        "distinct": new,
        "picks_per_s": len(path) / steps["median"],
        "steps_s": steps,
        "bytes_floor_s": bytes_s,
        "macs_floor_s": macs_s,
        "loop_floor_s": loop_s * len(path),
        "over_floor": steps["median"] / (max(bytes_s, macs_s) + loop_s * len(path)),
        "bytes_per_s": bytes_per_s,
        "macs_per_s": macs_per_s,
        "peak_memory_bytes": peak_bytes(),
        "picks_sha256": path.sha256,
    }


@dataclass(frozen=True)
class RankFloors:
    """What one rank here can do at best.

    Attributes:
        macs_per_s: multiply-adds of a product of matrices, by precision.
        step_s: a step of the loop on next to nothing.
    """

    macs_per_s: Mapping[torch.dtype, float]
    step_s: float

    @classmethod
    def measured(cls, device: str, threads: int) -> RankFloors:
        where, cell = torch.device(device), Cell.of_ranks(1, 1, TINY_PICKS, seed=0)
        with use_threads(threads):
            rates = {dtype: product_rate(where, dtype) for dtype in (torch.float32, torch.float64)}
            return cls(rates, loop_step_s(cell, where, TINY_REPEATS))

    def phase_rows(self, work: LayerWork, objective: str, one: SearchTime) -> list[Row]:
        """One rank alone: seconds of each phase over its multiply-adds at the rate of a product.

        Passes through the network compute in float32, searches by moments in float64. What a phase
        takes beyond its floor, it reads, writes and waits for memory.
        """
        network = self.macs_per_s[torch.float32]
        search = network if objective == "network_loss" else self.macs_per_s[torch.float64]
        least = {
            "moments": work.moments / network,
            "set-up": (work.once + work.once_divided) / search,
            "steps": work.steps * ((work.common + work.divided) / search + self.step_s),
        }
        return [
            _floor_row(1, phase, one.phases[phase], floor_s, "multiply-adds, and the loop")
            for phase, floor_s in least.items()
            if one.phases[phase] > 0
        ]


def exchange_floor_rows(
    whole: Mapping[int, Sequence[SearchTime]], sizes: Sequence[int], exchange: Exchange
) -> list[Row]:
    """Ranks at once: measured seconds inside exchanges over what as many take without a search."""
    rows = []
    for ranks, times in whole.items():
        if ranks > 1:
            floor_s = sum(exchange.seconds(ranks, size) for size in sizes)
            best_s = min(one.exchange_s for one in times)
            rows.append(_floor_row(ranks, "exchange", best_s, floor_s, "latency and bytes"))
    return rows


def _floor_row(workers: int, phase: str, measured_s: float, floor_s: float, of: str) -> Row:
    return {
        "workers": workers,
        "phase": phase,
        "measured_s": measured_s,
        "floor_s": floor_s,
        "over_floor": measured_s / floor_s if floor_s else None,
        "floor_of": of,
    }


def loop_step_s(cell: Cell, device: torch.device, repeats: int) -> float:
    """Seconds of a step of the same search on next to nothing."""
    tiny = Cell.of_ranks(TINY, TINY, cell.picks, cell.seed, cell.method)
    return statistics.median(_steps(tiny, device, repeats)[0]) / tiny.picks


def _steps(cell: Cell, device: torch.device, repeats: int) -> tuple[list[float], GreedyPath]:
    """Seconds of all steps of a search whose set-up is done, some times."""
    seconds = []
    for _ in range(1 + repeats):
        share = RankShare.whole(cell.neurons)
        objective = CellProblem(cell).objective(share, device, lambda: None)
        began = time.perf_counter()
        path = greedy(objective, Stop(cell.picks))
        seconds.append(time.perf_counter() - began)
    return seconds[1:], path


def _read_rate(numbers: int, device: torch.device) -> float:
    """Bytes a second of a sum over so many float64."""
    values = torch.ones(numbers, dtype=torch.float64, device=device)
    return NUMBER_BYTES * numbers / _best(lambda: values.sum().item())


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds a second of a product of matrices."""
    left = torch.ones(MATRIX, MATRIX, dtype=dtype, device=device)
    return MATRIX**3 / _best(lambda: (left @ left)[0, 0].item())


def _best(work: Callable[[], object], seconds: float = 0.2) -> float:
    """The least of as many runs as fit into ``seconds``, two at least, after two that warm up."""
    for _ in range(WARM_UP):
        work()
    times: list[float] = []
    while len(times) < WARM_UP or sum(times) < seconds:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
