"""What more ranks buy: critical paths, calibrated forecasts, ways to split; numbers alone."""

from __future__ import annotations

from gfs_dist.scaling.exchange import Exchange
from gfs_dist.scaling.forecast import Estimate, Line
from gfs_dist.scaling.schedule import CriticalPath, critical_path, makespan
from gfs_dist.scaling.splits import LayerWork, Rates, Split, choose_split, costs_of_splits
from gfs_dist.scaling.width import paying_width, per_candidate_s

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
