"""The least squared loss of any weighted average of neurons, with a certificate.

Lemma 1 compares a path with the dense network, the plain average of all neurons. Its proof allows
any other point of their convex hull; the best of these is found here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from gfs_dist.errors import InputError
from gfs_dist.theory.arguments import Tile, as_tiles, at_least, finite_target, refuse_not_finite

TOLERANCE = 1e-9
MAX_STEPS = 100_000
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class HullMinimum:
    """An average of neurons, and how far its loss can be above the least one.

    Attributes:
        loss: mean loss of the average, ``||u - y||^2 / (2 m)``.
        gap: the Frank-Wolfe duality gap there, ``max_i <u - y, u - phi_i> / m``, raised by what
            its rounding can hide. The least loss is in ``[loss - gap, loss]``.
        coefficients: weights of all neurons in the average, float64 (neurons,), at least 0, of
            sum 1.
        steps: neurons that were added to it.
    """

    loss: float
    gap: float
    coefficients: Tensor
    steps: int

    @property
    def lower(self) -> float:
        """A lower bound of the least loss, ``loss - gap`` or 0."""
        return max(0.0, self.loss - self.gap)

    @property
    def num_kept(self) -> int:
        """Neurons with a weight: at most one more than samples times outputs."""
        return int(torch.count_nonzero(self.coefficients))


def hull_minimum(
    contributions: Tensor | NDArray[Any] | Tile,
    target: Tensor | NDArray[Any],
    *,
    num_neurons: int | None = None,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> HullMinimum:
    """The least mean squared loss over the convex hull of the neurons' contributions.

        min_u ||u - y||^2 / (2 m)   over   u = sum_i w_i phi_i,  w_i >= 0,  sum_i w_i = 1

    By Wolfe's algorithm, the fully corrective form of Frank-Wolfe: add the neuron that points
    most downhill, move to the best affine combination of all that have a weight, drop those whose
    weight would turn negative. It is finite, and needs neither a step size nor well-conditioned
    neurons: each combination is a least squares problem, solved from the contributions and not
    from their Gram matrix. The certificate is measured on the result, however that was found.

    All contributions are held twice in float64 (16 bytes each).

    Args:
        contributions: as for :func:`gfs_dist.theory.lemma1_constants`.
        target: (samples,) or (samples, outputs).
        num_neurons: how many neurons there are, if ``contributions`` is a function.
        tolerance: end where the gap is at most this share of the best single neuron's loss.
        max_steps: end after so many additions; the gap then tells what is missing.

    Returns:
        The best average found, with its gap.

    Raises:
        ShapeError: contributions do not fit the target, or are empty.
        NonFiniteError: NaN or infinity; names neuron and sample.
        InputError: a negative tolerance, or no steps.

    Source: Wolfe 1976, "Finding the nearest point in a polytope"; the gap: Jaggi 2013,
    "Revisiting Frank-Wolfe". arXiv 2108.00259, equations 7 and 8, has the hull.
    """
    at_least("tolerance", tolerance, 0.0)
    if max_steps < 1:
        raise InputError(f"max_steps: found {max_steps}, accepted 1 or more")
    goal = finite_target(target)
    tile, n = as_tiles(contributions, goal, num_neurons)
    neurons = torch.arange(n)
    points = tile(neurons)
    refuse_not_finite(points, neurons, len(goal))
    points = points - goal.reshape(-1)
    # Only inner products count: with more numbers than neurons a triangle holds them all.
    short = points if points.shape[1] <= n else torch.linalg.qr(points.T, mode="r")[1].T
    weights, steps = _nearest_average(short.contiguous(), tolerance, max_steps)
    return _certified(points, weights, steps, len(goal))


def _certified(points: Tensor, weights: Tensor, steps: int, num_samples: int) -> HullMinimum:
    """Loss and gap of the average of ``points`` (contributions minus target) by ``weights``."""
    nearest = weights @ points
    squared = float(nearest @ nearest)
    longest = float(torch.linalg.vector_norm(points, dim=1).max())
    gap = max(0.0, squared - float((points @ nearest).min())) + _rounding(nearest, longest)
    return HullMinimum(squared / (2 * num_samples), gap / num_samples, weights, steps)


def _rounding(nearest: Tensor, longest: float) -> float:
    """The most by which rounding changes an inner product of ``nearest`` with a point."""
    norm = float(torch.linalg.vector_norm(nearest))
    return torch.finfo(nearest.dtype).eps * len(nearest) * norm * longest


def _nearest_average(points: Tensor, tolerance: float, max_steps: int) -> tuple[Tensor, int]:
    """Weights of the average of ``points`` (one a row) nearest to 0, and the points added."""
    squared = (points**2).sum(1)
    corral = squared.argmin().reshape(1)
    weights, nearest = points.new_ones(1), points[corral[0]]
    accepted, longest = tolerance * float(squared[corral[0]]) / 2, math.sqrt(float(squared.max()))
    steps = 0
    while steps < max_steps:
        inner = points @ nearest
        new = inner.argmin().reshape(1)
        gap = float(nearest @ nearest - inner[new])
        if gap <= max(accepted, _rounding(nearest, longest)) or bool((corral == new).any()):
            break
        steps += 1
        found, shares = _corrected(
            points, torch.cat([corral, new]), torch.cat([weights, weights.new_zeros(1)])
        )
        moved = shares @ points[found]
        if float(moved @ moved) >= float(nearest @ nearest):
            break  # only rounding is left
        corral, weights, nearest = found, shares, moved
    everywhere = points.new_zeros(len(points))
    everywhere[corral] = weights / weights.sum()
    return everywhere, steps


def _corrected(points: Tensor, corral: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The best affine combination of ``corral``, after dropping points that it subtracts."""
    while True:
        best = _affine_minimum(points[corral])
        falling = best <= 0
        if not bool(falling.any()):
            return corral, best
        shares = torch.where(falling, weights / (weights - best).clamp(min=TINY), math.inf)
        step = shares.min().clamp(max=1.0)
        weights = weights + step * (best - weights)
        kept = (shares > step) & (weights > 0)
        corral, weights = corral[kept], weights[kept]


def _affine_minimum(points: Tensor) -> Tensor:
    """Weights of sum 1, of any sign, of the combination of ``points`` nearest to 0."""
    edges = (points[1:] - points[0]).T
    found = torch.linalg.lstsq(edges, -points[0][:, None], driver="gelsy").solution[:, 0]
    return torch.cat([(1 - found.sum()).reshape(1), found])
