"""What more ranks buy: critical paths, calibrated forecasts, ways to split; numbers alone."""

from __future__ import annotations

from gfs_dist.bench.model.exchange import Exchange
from gfs_dist.bench.model.forecast import Estimate, Line
from gfs_dist.bench.model.schedule import CriticalPath, critical_path, makespan
from gfs_dist.bench.model.splits import LayerWork, Rates, Split, choose_split, costs_of_splits
from gfs_dist.bench.model.width import paying_width, per_candidate_s

__all__ = [
    "CriticalPath",
    "Estimate",
    "Exchange",
    "LayerWork",
    "Line",
    "Rates",
    "Split",
    "choose_split",
    "costs_of_splits",
    "critical_path",
    "makespan",
    "paying_width",
    "per_candidate_s",
]
