"""Where the time of each rank went."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import cast

from gfs_dist.records import RankTiming
from gfs_dist.records import Timing as TimingRow
from gfs_dist.runtime.event_log import Row


@dataclass
class Timing:
    """Seconds of one rank in one search or group task, over all its generations.

    Attributes:
        setup_s: building the objective.
        join_s: forming groups.
        compute_s: the work without its exchanges.
        exchange_s: inside exchanges, waiting for slower ranks included.
        messages, bytes: tensors handed to the network by this rank, and their size.
        evaluated, scored: candidates' losses evaluated, and asked for, since the objective was
            built; 0 for objectives that evaluate all.
    """

    setup_s: float = 0.0
    join_s: float = 0.0
    compute_s: float = 0.0
    exchange_s: float = 0.0
    messages: int = 0
    bytes: int = 0
    peak_rss_bytes: int = 0
    evaluated: int = 0
    scored: int = 0

    def finish(self, objective: object = None) -> None:
        """Add what is known at the end."""
        self.peak_rss_bytes = peak_rss_bytes()
        self.evaluated = getattr(objective, "num_evaluated", 0)
        self.scored = getattr(objective, "num_scored", 0)


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def summary(ranks: list[Row], setup_s: float, steps_s: float) -> TimingRow:
    """Timing of a search from the rows of its ranks, which get their ``wait_s`` here.

    The wait of a rank is its exchange time minus the least of all ranks: the rank that comes last
    to every exchange waits for nobody, so its time is what the network costs. ``setup_s`` and
    ``steps_s`` are wall times of the coordinator (starting workers included, recoveries too);
    ``exchange_s`` is the least over ranks, ``wait_s`` the most. ``evaluated_share`` is the part
    of losses that a screened objective evaluated, None for others.
    """
    least = min(row["exchange_s"] for row in ranks)
    for row in ranks:
        row["wait_s"] = row["exchange_s"] - least
    wait_s = max(row["wait_s"] for row in ranks)
    scored = sum(row["scored"] for row in ranks)
    return {
        "setup_s": setup_s,
        "steps_s": steps_s,
        "exchange_s": least,
        "wait_s": wait_s,
        "evaluated_share": sum(row["evaluated"] for row in ranks) / scored if scored else None,
        "ranks": cast(list[RankTiming], ranks),
    }
