"""Where the time of a search goes, phase by phase, and the least that each phase could take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gfs_dist.jobs.bare_search import product_rate
from gfs_dist.jobs.local import use_threads
from gfs_dist.jobs.study_model import Row
from gfs_dist.jobs.study_runs import Timed
from gfs_dist.scaling import Exchange, LayerWork

MULTIPLY_ADDS, LATENCY = "multiply-adds", "latency and bytes"


def product_rates(device: str, threads: int) -> dict[torch.dtype, float]:
    """Multiply-adds a second of one rank in a product of matrices, by precision."""
    with use_threads(threads):
        return {d: product_rate(torch.device(device), d) for d in (torch.float32, torch.float64)}


def phase_rows(
    work: LayerWork, objective: str, one: Timed, rates: Mapping[torch.dtype, float]
) -> list[Row]:
    """One rank alone: seconds of each phase over its multiply-adds at the rate of a product.

    Passes through the network compute in float32, searches by moments in float64. What a phase
    takes beyond its floor, it reads, writes and waits for memory.
    """
    search = rates[torch.float32 if objective == "network_loss" else torch.float64]
    floors = {
        "moments": work.moments / rates[torch.float32],
        "set-up": (work.once + work.once_divided) / search,
        "steps": work.steps * (work.common + work.divided) / search,
    }
    rows = [_row(1, phase, one.phases[phase], floors[phase], MULTIPLY_ADDS) for phase in floors]
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
            rows.append(_row(ranks, "exchange", best, floor_s, LATENCY))
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
