"""What an exchange costs by ranks and bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gfs_dist.bench.model.fits import fit_non_negative
from gfs_dist.errors import InputError


@dataclass(frozen=True)
class Exchange:
    """Seconds of one reduction or broadcast, ``alpha log2 P + beta bytes``; none for one rank.

    Attributes:
        latency_s: ``alpha``.
        per_byte_s: ``beta``.
        error: standard deviation of measured over fitted, as a share.
    """

    latency_s: float
    per_byte_s: float
    error: float

    @classmethod
    def fit(cls, measured: Sequence[tuple[int, int, float]]) -> Exchange:
        """The exchange nearest to what was measured, in relative terms.

        Args:
            measured: ranks (2 or more), bytes, and seconds of one exchange.

        Raises:
            InputError: nothing measured, or by fewer than 2 ranks.
        """
        if not measured or any(ranks < 2 for ranks, _, _ in measured):
            raise InputError(f"measured: found {measured}, accepted exchanges of 2 ranks or more")
        terms = torch.tensor(
            [[math.log2(ranks), float(size)] for ranks, size, _ in measured], dtype=torch.float64
        )
        seconds = torch.tensor([value for _, _, value in measured], dtype=torch.float64)
        (latency_s, per_byte_s), error = fit_non_negative(terms, seconds)
        return cls(latency_s, per_byte_s, error)

    def seconds(self, ranks: int, num_bytes: int) -> float:
        """Of one exchange of so many bytes."""
        if ranks == 1:
            return 0.0
        return self.latency_s * math.log2(ranks) + self.per_byte_s * num_bytes
