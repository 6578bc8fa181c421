"""Moments that are given: the Gram columns they hold, and a check that they can be moments."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gfs_dist.errors import InputError, NonFiniteError, ShapeError


class GivenMoments:
    """Gram columns from given moments: ``<psi_i, psi_j> = A_ij - p_i - p_j + e``.

    Args:
        gram: columns of ``A = phi'phi / m`` (n, num_own).
        correlation: ``p = phi'y / m`` (n,).
        energy: ``e = y'y / m``.
    """

    def __init__(self, gram: Tensor, correlation: Tensor, energy: float, own: Tensor) -> None:
        self.num_candidates, self.own, self.offset = len(gram), own, math.sqrt(energy)
        self.held, self.at_once, self.numbers = range(len(gram)), 0, 0
        index = own.to(gram.device)
        self._gram, self._correlation = gram, correlation
        self._own_correlation = correlation[index] - energy
        diagonal = gram[index, torch.arange(len(own), device=gram.device)]
        self.diagonal = (diagonal - correlation[index] - self._own_correlation).clamp_(min=0.0)

    def keep(self, agreed: Tensor) -> None:
        """They are given to all ranks."""

    def make(self, promise: Tensor) -> None:
        raise AssertionError("all columns are there")

    def gram(self, pick: int) -> Tensor:
        return self._gram[pick] - self._own_correlation - self._correlation[pick]


def check_moments(gram: Tensor, correlation: Tensor, energy: float, rounding: float) -> None:
    """Refuse moments that cannot be ``A'A / m``, ``A'y / m`` and ``y'y / m``.

    Args:
        rounding: of a moment; a thousand times as much is accepted.

    Raises:
        ShapeError: gram is not square and symmetric, or correlation does not fit it.
        NonFiniteError: an entry is NaN or infinite.
        InputError: ``p_i^2 <= G_ii e`` (Cauchy-Schwarz) does not hold; names the neuron.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or len(gram) == 0:
        raise ShapeError(f"gram: found shape {tuple(gram.shape)}, accepted (neurons, neurons)")
    if correlation.shape != gram.shape[:1]:
        raise ShapeError(
            f"correlation: found shape {tuple(correlation.shape)}, accepted ({len(gram)},) "
            "to fit gram"
        )
    for name, values in (("gram", gram), ("correlation", correlation)):
        bad = (~torch.isfinite(values)).nonzero()
        if len(bad):
            place = bad[0].tolist()
            raise NonFiniteError(f"{name}: entry {place} is not finite, accepted finite numbers")
    slack = 1e3 * rounding
    if not torch.allclose(gram, gram.T, rtol=slack, atol=rounding * float(gram.abs().max())):
        raise ShapeError("gram: found a matrix that is not symmetric, accepted A'A / m")
    diagonal = gram.diagonal()
    bad = ((diagonal < 0) | (correlation.square() > diagonal * energy * (1 + slack))).nonzero()
    if len(bad):
        i = int(bad[0])
        raise InputError(
            f"correlation: neuron {i} has {float(correlation[i])} with gram {float(diagonal[i])} "
            f"and energy {energy}; accepted are moments of the same samples, all divided by m"
        )
