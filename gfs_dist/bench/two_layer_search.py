"""The bare two-layer search of ``suite=scaling``: by one process, by ranks, and its floors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gfs_dist.bench.cell_problem import CellProblem
from gfs_dist.bench.model import Exchange, critical_path
from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime
from gfs_dist.bench.suite import Row
from gfs_dist.bench.two_layer_cell import Cell
from gfs_dist.runtime import Runtime
from gfs_dist.runtime.resources import forget_peak, peak_bytes
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from gfs_dist.workflows.process import use_threads

NUMBER = 8
"""Bytes of a float64."""

STEP_NUMBERS = 5
"""Numbers of a candidate that a step must touch: norm, correlation, product with the picks (read
and written), Gram column."""

TINY = 8
"""Candidates and samples of a search that only takes the time of its loop."""

MATRIX = 1024
WARM_UP = 2


def cell(samples: int, neurons: int, picks: int, seed: int, method: str = "lazy") -> Cell:
    """A search of one thread."""
    return Cell(samples, neurons, picks, picks, "squared", method, 1, 1, seed)


@dataclass(frozen=True)
class Split:
    """Seconds of one search by ranks; ``wait_s`` is the most that one waits for slower ones."""

    seconds: float
    setup_s: float
    compute_s: float
    exchange_s: float
    wait_s: float
    peak_rss_bytes: int
    path: GreedyPath


def at_once(cell: Cell, runtime: Runtime, repeats: int) -> list[Split]:
    """By all ranks of ``runtime``; each sets up again, the data are there after the first time."""
    found = []
    for _ in range(1 + repeats):
        search = runtime.search(CellProblem(cell), Stop(cell.picks))
        timing, ranks = search.timing, search.timing["ranks"]
        found.append(
            Split(
                max(row["setup_s"] + row["compute_s"] + row["exchange_s"] for row in ranks),
                max(row["setup_s"] for row in ranks),
                max(row["compute_s"] for row in ranks),
                timing["exchange_s"],
                timing["wait_s"],
                max(row["peak_rss_bytes"] for row in ranks),
                search.path,
            )
        )
    return found[1:]


def one_by_one(
    cell: Cell, ranks: Sequence[int], where: tuple[str, int], repeats: int, exchange: Exchange
) -> tuple[dict[int, list[Split]], list[int]]:
    """By each rank alone: critical paths by number of ranks; and bytes of each exchange.

    ``where``: device, and threads a rank.
    """
    found: dict[int, list[Split]] = {n: [] for n in ranks}
    executor = OneRankAtATime(ranks, *where)
    with Runtime(executor) as runtime:
        for number in range(1 + repeats):
            runtime.search(CellProblem(cell), Stop(cell.picks))
            told, timings = executor.searches.pop()
            for n in ranks if number else ():
                own = timings[n]
                path = critical_path([t.setup_s for t in own], [t.stretches_s for t in own])
                exchange_s = sum(exchange.seconds(n, size) for size in told.sizes)
                found[n].append(
                    Split(
                        path.setup_s + path.steps_s + exchange_s,
                        path.setup_s,
                        path.steps_s,
                        exchange_s,
                        path.wait_s,
                        max(t.peak_rss_bytes for t in own),
                        told.path,
                    )
                )
    return found, told.sizes


def alone(cell: Cell, device: str, threads: int, repeats: int) -> Row:
    """Picks per second of one process, beside the floor of each step.

        floor = max(bytes / bandwidth, multiply-adds / rate) + K loop

    A new pick reads all contributions; every step reads and writes :data:`STEP_NUMBERS` numbers of
    each candidate. Bandwidth is that of a sum over as many numbers as there are contributions,
    ``loop`` the step of the same search on 8 neurons and 8 samples: all measured here and now.
    """
    where = torch.device(device)
    with use_threads(threads):
        forget_peak()
        seconds, path = _steps(cell, where, repeats)
        loop_s = step_of_loop(cell, where, repeats)
        bytes_per_s = _read_rate(cell.samples * cell.neurons, where)
        macs_per_s = product_rate(where, torch.float64)
    new, numbers = path.num_kept, cell.samples * cell.neurons
    num_bytes = NUMBER * (new * numbers + len(path) * STEP_NUMBERS * cell.neurons)
    macs = new * numbers + len(path) * cell.neurons
    median = statistics.median(seconds)
    floors = {
        "bytes_floor_s": num_bytes / bytes_per_s,
        "macs_floor_s": macs / macs_per_s,
        "loop_floor_s": loop_s * len(path),
    }
    floor_s = max(floors["bytes_floor_s"], floors["macs_floor_s"]) + floors["loop_floor_s"]
    return {
        "neurons": cell.neurons,
        "samples": cell.samples,
        "device": device,
        "threads": threads,
        "picks": len(path),
        "distinct": new,
        "picks_per_s": len(path) / median,
        "steps_s": {"median": median, "minimum": min(seconds), "maximum": max(seconds)},
        **floors,
        "over_floor": median / floor_s,
        "bytes_per_s": bytes_per_s,
        "macs_per_s": macs_per_s,
        "peak_memory_bytes": peak_bytes(),
        "picks_sha256": path.sha256,
    }


def step_of_loop(cell: Cell, device: torch.device, repeats: int) -> float:
    """Seconds of a step of the same search on next to nothing."""
    tiny = Cell(TINY, TINY, cell.picks, cell.picks, cell.objective, cell.method, 1, 1, cell.seed)
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
    return NUMBER * numbers / _best(lambda: values.sum().item())


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds a second of a product of matrices."""
    left = torch.ones(MATRIX, MATRIX, dtype=dtype, device=device)
    return MATRIX**3 / _best(lambda: (left @ left)[0, 0].item())


def _best(work: Callable[[], Any], seconds: float = 0.2) -> float:
    """The least of as many runs as fit into ``seconds``, two at least, after two that warm up."""
    for _ in range(WARM_UP):
        work()
    times: list[float] = []
    while len(times) < WARM_UP or sum(times) < seconds:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
