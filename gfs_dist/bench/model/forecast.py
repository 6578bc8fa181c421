"""A calibrated model of one phase: what every rank does anyway, and what is shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from gfs_dist.bench.model.fits import fit_non_negative
from gfs_dist.errors import InputError


class Estimate(NamedTuple):
    """Seconds, and their standard error."""

    seconds: float
    error_s: float

    @classmethod
    def sum(cls, parts: Sequence[Estimate]) -> Estimate:
        """Of independent parts one after another: errors add up as squares."""
        total = sum(part.seconds for part in parts)
        return cls(total, sum(part.error_s**2 for part in parts) ** 0.5)

    @property
    def low_s(self) -> float:
        """Two standard errors below, at least 0."""
        return max(0.0, self.seconds - 2 * self.error_s)

    @property
    def high_s(self) -> float:
        """Two standard errors above."""
        return self.seconds + 2 * self.error_s


@dataclass(frozen=True)
class Line:
    """Seconds of the slowest rank, ``a + b share``, with the share of all work that it has.

    Attributes:
        fixed_s: ``a``, what every rank does.
        shared_s: ``b``, what is shared out.
        error: standard deviation of measured over fitted, as a share.
        points: that it was fitted to, ``(share, seconds)``.
    """

    fixed_s: float
    shared_s: float
    error: float
    points: tuple[tuple[float, float], ...]

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]]) -> Line:
        """The line nearest to measured times, in relative terms; neither part below 0.

        Args:
            points: shares in (0, 1] and seconds; repeats make error bars.

        Raises:
            InputError: fewer than two different shares, or a share outside (0, 1].
        """
        shares = {share for share, _ in points}
        if len(shares) < 2 or not all(0 < share <= 1 for share in shares):
            raise InputError(
                f"points: found shares {sorted(shares)}, accepted two or more different ones in "
                "(0, 1]"
            )
        terms = torch.tensor([[1.0, share] for share, _ in points], dtype=torch.float64)
        seconds = torch.tensor([value for _, value in points], dtype=torch.float64)
        (fixed_s, shared_s), error = fit_non_negative(terms, seconds)
        return cls(fixed_s, shared_s, error, tuple(points))

    @classmethod
    def constant(cls, seconds: Sequence[float]) -> Line:
        """Of what is not shared out, measured some times."""
        (fixed_s,), error = fit_non_negative(
            torch.ones(len(seconds), 1, dtype=torch.float64),
            torch.tensor(seconds, dtype=torch.float64),
        )
        return cls(fixed_s, 0.0, error, tuple((1.0, value) for value in seconds))

    def at(self, share: float) -> Estimate:
        """A time to expect, with the error of a single measurement there.

            error^2 = s^2 (y^2 + x' (X' W X)^-1 x),   x = (1, share),   W = 1 / y_i^2

        with ``s`` the spread of measured over fitted.
        """
        x = torch.tensor([1.0, share], dtype=torch.float64)
        rows = torch.tensor([[1 / y, s / y] for s, y in self.points], dtype=torch.float64)
        seconds = self.fixed_s + self.shared_s * share
        uncertain = float(x @ torch.linalg.pinv(rows.T @ rows) @ x)
        return Estimate(seconds, self.error * (seconds**2 + max(uncertain, 0.0)) ** 0.5)
