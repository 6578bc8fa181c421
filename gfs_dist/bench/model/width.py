"""From which width on more ranks are faster."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gfs_dist.bench.model.fits import fit_non_negative
from gfs_dist.errors import InputError


def per_candidate_s(points: Sequence[tuple[int, float]]) -> float:
    """``b`` of ``a + b n``, the seconds that a candidate more adds to a step of one rank.

    Args:
        points: candidates and seconds of a step.

    Raises:
        InputError: fewer than two different widths.
    """
    if len({width for width, _ in points}) < 2:
        raise InputError(f"points: found {list(points)}, accepted two or more widths")
    terms = torch.tensor([[1.0, float(n)] for n, _ in points], dtype=torch.float64)
    seconds = torch.tensor([value for _, value in points], dtype=torch.float64)
    return fit_non_negative(terms, seconds)[0][1]


def paying_width(candidate_s: float, exchange_s: float, ranks: int) -> float:
    """Candidates from which ``ranks`` take less time a step than one rank does.

        b n > b n / P + e    <=>    n > e / (b (1 - 1 / P))

    Args:
        candidate_s: ``b``, of a step of one rank.
        exchange_s: ``e``, of all exchanges of a step.
        ranks: 2 or more.
    """
    saved = candidate_s * (1 - 1 / ranks)
    return exchange_s / saved if saved > 0 else math.inf
