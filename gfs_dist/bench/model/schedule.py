"""How long ranks take together, from what each of them takes alone."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from gfs_dist.errors import InputError


@dataclass(frozen=True)
class CriticalPath:
    """Ranks that meet at every exchange, exchanges not counted; seconds.

    Attributes:
        setup_s: of the slowest rank.
        steps_s: sum over the stretches between exchanges of the slowest rank's.
        wait_s: the most that one rank waits for slower ones, from the end of its set-up on.
    """

    setup_s: float
    steps_s: float
    wait_s: float


def critical_path(setups: Sequence[float], stretches: Sequence[Sequence[float]]) -> CriticalPath:
    """What ranks take that were timed one by one.

        steps = sum_j max_r stretch_rj,     wait = max_r sum_j (max_q stretch_qj - stretch_rj)

    Args:
        setups: seconds of each rank before its first stretch.
        stretches: of each rank, seconds between one exchange and the next.

    Raises:
        InputError: no ranks, or ranks with other numbers of stretches.
    """
    if not setups or len(setups) != len(stretches) or len({len(own) for own in stretches}) != 1:
        raise InputError(
            f"stretches: found {[len(own) for own in stretches]} of {len(setups)} ranks, accepted "
            "as many of each"
        )
    slowest = [max(together) for together in zip(*stretches, strict=True)]
    steps_s = sum(slowest)
    return CriticalPath(max(setups), steps_s, max(steps_s - sum(own) for own in stretches))


def makespan(seconds: Sequence[float], ranks: int) -> float:
    """When the last item is done, if an idle rank always takes the next one.

    Args:
        seconds: of each item, in the order in which they are handed out.
        ranks: at least 1.
    """
    free = [0.0] * ranks
    for item in seconds:
        heapq.heapreplace(free, free[0] + item)
    return max(free)
