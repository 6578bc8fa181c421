"""Ways to divide the search of a layer among ranks, and what each costs.

candidates   every rank owns some and does all of a step's common work; 16 bytes and the pick's
             column travel a step
samples      a step is a table of parts of the samples and batches of candidates; every rank has a
             run of its cells, row by row, and runs the samples of its rows; the sums travel
layers       the layer is searched by one rank, others work on other layers meanwhile

Moments are sums over samples and are divided over parts of the samples in every case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gfs_dist.bench.model.timing_model import Exchange
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
    like: int
    once: float = 0.0
    once_divided: float = 0.0
    common: float = 0.0
    divided: float = 0.0
    column_bytes: float = 0.0
    rows: int = 0
    cells: int = 0
    table_bytes: int = 0
    moments: float = 0.0
    parts: int = 1

    @property
    def search(self) -> float:
        """Of one rank alone: its set-up and all steps."""
        return self.once + self.once_divided + self.steps * (self.common + self.divided)

    def candidate_share(self, ranks: int) -> float:
        """Of all candidates, those of the rank that has most."""
        return share_of(self.candidates, ranks)

    def row_share(self, ranks: int) -> float:
        """Of all rows, those that the rank which has most of them touches."""
        shares = map(Partition.contiguous(self.rows, ranks).share, range(ranks))
        return max(len(share.rows(self.rows)) for share in shares) / self.rows

    def cell_share(self, ranks: int) -> float:
        """Of all cells, those of the rank that has most."""
        return share_of(self.cells, ranks)

    def phase_shares(self) -> dict[str, Callable[[int], float]]:
        """Of each phase, the share of the slowest rank by number of ranks, as ``gfs prune`` divides
        it: samples and cells of a step's table; or moments over parts of the samples and all else
        over candidates.
        """
        if self.rows:
            return {"set-up": self.row_share, "steps": self._table_share}
        return {
            "set-up": self.candidate_share,
            "steps": self.candidate_share,
            "moments": lambda ranks: share_of(self.parts, ranks),
        }

    def _table_share(self, ranks: int) -> float:
        own = self.common * self.row_share(ranks) + self.divided * self.cell_share(ranks)
        return own / (self.common + self.divided)


def share_of(items: int, ranks: int) -> float:
    """Of equal items, those of the rank that has most."""
    return math.ceil(items / ranks) / items


def costs_of_splits(
    work: LayerWork, ranks: int, macs_per_s: float, exchange: Exchange
) -> dict[str, float]:
    """Seconds of each way that there is, the moments' pass included, in the order above.

        moments     M / min(P, parts)
        candidates  O + o s + K (C + D s) + K (2 e(8) + e(column)),      s = ceil(n / P) / n
        samples     (O + K C) r + (o + K D) c + K (2 e(8) + e(table))
        layers      (O + o + K (C + D)) / min(P, like)

    ``e(bytes)``: an exchange; ``r`` and ``c``: the largest shares of rows and cells; ``layers`` is
    one rank's whole time, of which as many layers go side by side as there are.

    Args:
        macs_per_s: multiply-adds of one rank in this work.
        exchange: of the ranks.
    """
    share = work.candidate_share(ranks)
    own = work.once + work.once_divided * share
    own += work.steps * (work.common + work.divided * share)
    decision_s = 2 * exchange.seconds(ranks, NUMBER_BYTES)
    column_s = exchange.seconds(ranks, round(work.column_bytes)) if work.column_bytes else 0.0
    moments_s = work.moments / min(ranks, work.parts) / macs_per_s
    ways = {"candidates": own / macs_per_s + work.steps * (decision_s + column_s)}
    if work.rows:
        sums_s = exchange.seconds(ranks, work.table_bytes)
        own = (work.once + work.steps * work.common) * work.row_share(ranks)
        own += (work.once_divided + work.steps * work.divided) * work.cell_share(ranks)
        ways["samples"] = own / macs_per_s + work.steps * (decision_s + sums_s)
    ways["layers"] = work.search / min(ranks, work.like) / macs_per_s
    return {way: moments_s + seconds for way, seconds in ways.items()}
