"""Where the time of a search goes, phase by phase, and the least that each phase could take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from gfs_dist.bench.block_model import Row
from gfs_dist.bench.block_runs import Timed
from gfs_dist.bench.model import Exchange, LayerWork
from gfs_dist.bench.two_layer_search import cell, product_rate, step_of_loop
from gfs_dist.workflows.process import use_threads

COMPUTING, EXCHANGING = "multiply-adds, and the loop", "latency and bytes"
PICKS, REPEATS = 50, 3
"""Of the search that shows what a step of the loop takes by itself."""


@dataclass(frozen=True)
class Floors:
    """What one rank here can do at best.

    Attributes:
        macs_per_s: multiply-adds of a product of matrices, by precision.
        step_s: a step of the loop on next to nothing.
    """

    macs_per_s: Mapping[torch.dtype, float]
    step_s: float

    @classmethod
    def measured(cls, device: str, threads: int) -> Floors:
        """Here and now."""
        where = torch.device(device)
        with use_threads(threads):
            rates = {dtype: product_rate(where, dtype) for dtype in (torch.float32, torch.float64)}
            return cls(rates, step_of_loop(cell(1, 1, PICKS, seed=0), where, REPEATS))


def phase_rows(work: LayerWork, objective: str, one: Timed, floors: Floors) -> list[Row]:
    """One rank alone: seconds of each phase over its multiply-adds at the rate of a product.

    Passes through the network compute in float32, searches by moments in float64. What a phase
    takes beyond its floor, it reads, writes and waits for memory.
    """
    network = floors.macs_per_s[torch.float32]
    search = network if objective == "network_loss" else floors.macs_per_s[torch.float64]
    least = {
        "moments": work.moments / network,
        "set-up": (work.once + work.once_divided) / search,
        "steps": work.steps * ((work.common + work.divided) / search + floors.step_s),
    }
    rows = [_row(1, phase, one.phases[phase], least[phase], COMPUTING) for phase in least]
    return [row for row in rows if row["measured_s"] > 0]


def exchange_rows(
    whole: Mapping[int, Sequence[Timed]], sizes: Sequence[int], exchange: Exchange
) -> list[Row]:
    """Ranks at once: measured seconds inside exchanges over what as many bare ones take."""
    rows = []
    for ranks, timed in whole.items():
        if ranks > 1:
            floor_s = sum(exchange.seconds(ranks, size) for size in sizes)
            best = min(one.exchange_s for one in timed)
            rows.append(_row(ranks, "exchange", best, floor_s, EXCHANGING))
    return rows


def _row(workers: int, phase: str, measured_s: float, floor_s: float, of: str) -> Row:
    return {
        "workers": workers,
        "phase": phase,
        "measured_s": measured_s,
        "floor_s": floor_s,
        "over_floor": measured_s / floor_s if floor_s else None,
        "floor_of": of,
    }
