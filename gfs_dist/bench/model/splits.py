"""Ways to divide the search of a layer among ranks, what each costs, and the cheapest.

candidates   every rank owns some and does all of a step's common work; 16 bytes and the pick's
             column travel a step
samples      a step is a table of parts of the samples and batches of candidates; every rank has a
             run of its cells, row by row, and runs the samples of its rows; the sums travel
layers       the layer is searched by one rank, others work on other layers meanwhile

Moments are sums over samples and are divided over parts of the samples in every case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from gfs_dist.bench.model.exchange import Exchange
from gfs_dist.selection.partition import Partition

NUMBER_BYTES = 8


@dataclass(frozen=True)
class LayerWork:
    """What the search of one layer takes, in multiply-adds.

    Attributes:
        candidates, steps: of the search.
        once: of a rank that owns everything, before the first step: divided over samples only.
        once_divided: the part of the set-up that the candidates divide.
        common: of a step, whoever owns what: divided over samples only.
        divided: of a step, for all candidates together.
        column_bytes: what travels of a pick besides the decision, on average.
        rows: parts of the samples that the losses of every step are sums over; 0 where steps read
            moments.
        cells: of the table of a step, rows times batches of candidates.
        table_bytes: of the sums of a step.
        like: layers of about this size that could be searched side by side, this one included.
        moments: of the pass before the search, which is divided over parts of the samples.
        parts: of the samples at most.
    """

    candidates: int
    steps: int
    once: float
    once_divided: float
    common: float
    divided: float
    column_bytes: float
    like: int
    rows: int = 0
    cells: int = 0
    table_bytes: int = 0
    moments: float = 0.0
    parts: int = 1

    def row_share(self, ranks: int) -> float:
        """Of all rows, those that the rank which has most of them touches."""
        shares = map(Partition.contiguous(self.rows, ranks).share, range(ranks))
        return max(len(share.rows(self.rows)) for share in shares) / self.rows

    def cell_share(self, ranks: int) -> float:
        """Of all cells, those of the rank that has most."""
        return math.ceil(self.cells / ranks) / self.cells


@dataclass(frozen=True)
class Rates:
    """What was measured of the machine.

    Attributes:
        macs_per_s: multiply-adds of one rank in this work.
        exchange: of the ranks.
    """

    macs_per_s: float
    exchange: Exchange


class Split(NamedTuple):
    """A way to divide, and its seconds, the layer's share of the wall time."""

    way: str
    seconds: float


def costs_of_splits(work: LayerWork, ranks: int, rates: Rates) -> dict[str, float]:
    """Seconds of each way that there is, the moments' pass included.

        moments     M / min(P, parts)
        candidates  O + o s + K (C + D s) + K (2 e(8) + e(column)),      s = ceil(n / P) / n
        samples     (O + K C) r + (o + K D) c + K (2 e(8) + e(table))
        layers      (O + o + K (C + D)) / min(P, like)

    ``e(bytes)``: an exchange; ``r`` and ``c``: the largest shares of rows and cells; ``layers`` is
    one rank's whole time, of which as many layers go side by side as there are.
    """
    rate, exchange = rates.macs_per_s, rates.exchange
    share = math.ceil(work.candidates / ranks) / work.candidates
    whole = work.once + work.once_divided + work.steps * (work.common + work.divided)
    own = work.once + work.once_divided * share
    own += work.steps * (work.common + work.divided * share)
    decision_s = 2 * exchange.seconds(ranks, NUMBER_BYTES)
    column_s = exchange.seconds(ranks, round(work.column_bytes)) if work.column_bytes else 0.0
    moments_s = work.moments / min(ranks, work.parts) / rate
    ways = {"candidates": own / rate + work.steps * (decision_s + column_s)}
    if work.rows:
        sums_s = exchange.seconds(ranks, work.table_bytes)
        own = (work.once + work.steps * work.common) * work.row_share(ranks)
        own += (work.once_divided + work.steps * work.divided) * work.cell_share(ranks)
        ways["samples"] = own / rate + work.steps * (decision_s + sums_s)
    ways["layers"] = whole / min(ranks, work.like) / rate
    return {way: moments_s + seconds for way, seconds in ways.items()}


def choose_split(work: LayerWork, ranks: int, rates: Rates) -> Split:
    """The cheapest way; of equal ones the first in the order above."""
    costs = costs_of_splits(work, ranks, rates)
    best = min(costs, key=costs.__getitem__)
    return Split(best, costs[best])
