"""Squared loss of weights that are fitted again after each pick: orthogonal least squares.

    L(picks) = min_c |sum_j c_j phi_j - y|^2 / (2 m)    over the picks j; several outputs are summed

Weights are free: they need not be positive or sum to 1, so that nothing is subtracted from the
contributions. ``elimination`` works on their Gram matrix (``block_least_squares.py``, blocks of one
input); ``exhaustive`` on themselves.

Source: orthogonal least squares (Chen, Billings, Luo 1989).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gfs_dist.selection.objective import ROUNDING
from gfs_dist.selection.objectives.block_least_squares import BlockLeastSquares, BlockMoments
from gfs_dist.selection.objectives.contributions import (
    Contributions,
    Deviations,
    check_finite,
    chunks,
)
from gfs_dist.selection.objectives.exhaustive import Exhaustive
from gfs_dist.selection.objectives.losses import SquaredLoss
from gfs_dist.selection.step_sizes import REFITTED

BLOCK = 512
"""Rows of the Gram matrix that one product makes."""


def least_share(rounding: float = ROUNDING) -> float:
    """Share of a candidate's squared length that has to lie outside the span of the picks.

    Args:
        rounding: of a moment, relative to its terms.
    """
    return 1e3 * rounding


def by_elimination(
    source: Contributions, target: Tensor, own: Tensor, tick: Callable[[], None]
) -> BlockLeastSquares:
    """The objective from moments of contributions.

    Args:
        source: contributions of all candidates.
        target: float64 (samples * outputs,).
    """
    n = source.num_candidates
    joined = torch.cat([own, torch.tensor([n])])
    moments = gram_matrix(_WithTarget(source, target), joined, tick)
    energy = energy_of(target, source.num_samples)
    return from_moments(moments[:n, :-1].T, moments[n, :-1], energy, own)


def from_moments(
    rows: Tensor, correlation: Tensor, energy: float, own: Tensor, rounding: float = ROUNDING
) -> BlockLeastSquares:
    """The objective from moments per sample: own rows of ``A'A``, own ``A'y``, and ``y'y``."""
    moments = BlockMoments(
        rows, correlation.unsqueeze(1), energy, least_share=least_share(rounding)
    )
    return BlockLeastSquares([moments], rows.shape[1], own, to_the_end=False)


def gram_matrix(source: Contributions, own: Tensor, tick: Callable[[], None]) -> Tensor:
    """Own columns of ``A'A / m``: float64 (n, num_own). Every contribution is made or read once."""
    n, device, width = source.num_candidates, source.device, source.num_outputs
    gram = torch.zeros(n, len(own), dtype=torch.float64, device=device)
    index = None if len(own) == n else own.to(device)
    for start, stop in chunks(source):
        tile = source.tile(None, start, stop)
        if index is None:
            _add_lower_triangle(gram, tile)
            squares = gram.diagonal()  # not finite where those of a tile are not
        else:
            gram.addmm_(tile, tile[index].T)
            squares = tile.square().sum(1)
        check_finite(tile, squares, None, start, width)
        tick()
    if index is None:
        _mirror(gram)
    return gram.div_(source.num_samples)


def _add_lower_triangle(gram: Tensor, tile: Tensor) -> None:
    """``gram += tile tile'`` on and below the diagonal, by blocks: half the work."""
    for first in range(0, len(gram), BLOCK):
        rows = slice(first, first + BLOCK)
        upto = min(first + BLOCK, len(gram))
        gram[rows, :upto].addmm_(tile[rows], tile[:upto].T)


def _mirror(gram: Tensor) -> None:
    """Copy what is below the diagonal to above it, block by block."""
    for first in range(0, len(gram), BLOCK):
        rows, upto = slice(first, first + BLOCK), min(first + BLOCK, len(gram))
        gram[:first, rows] = gram[rows, :first].T
        square = gram[first:upto, first:upto]
        square.copy_(square.tril() + square.tril(-1).T)


def energy_of(target: Tensor, num_samples: int) -> float:
    """``y'y / m``, rounded once: on every rank the same bits."""
    return math.fsum(target.square().tolist()) / num_samples


def unshifted(rows: Tensor, _first: int) -> Tensor:
    """Nothing is subtracted from contributions whose weights are free."""
    return rows


class _WithTarget(Deviations):
    """Contributions, and the target as one more candidate."""

    def __init__(self, source: Contributions, target: Tensor) -> None:
        super().__init__(source, unshifted)
        self.num_candidates += 1
        self._target = target

    def tile(self, candidates: Tensor | None, start: int, stop: int) -> Tensor:
        assert candidates is None, "all of them, as a panel is made"
        target = self._target[start * self.num_outputs : stop * self.num_outputs]
        return torch.cat([super().tile(None, start, stop), target.unsqueeze(0)])


class ExhaustiveRefit(Exhaustive):
    """The oracle: at every step, how much of the residual lies along each candidate.

    Only what of a candidate is orthogonal to all picks can lower the loss; it is taken from the
    contributions, twice, so that nothing is left of the picks but rounding.
    """

    def __init__(
        self, source: Contributions, target: Tensor, own: Tensor, tick: Callable[[], None]
    ) -> None:
        loss = SquaredLoss(target, source.num_samples)
        super().__init__(Deviations(source, unshifted), loss, own, REFITTED, False, tick)
        self._energy = energy_of(target, source.num_samples)
        self._basis, self._residual = target.new_empty(0, len(target)), target

    def magnitude(self, loss: float) -> float:
        """The same as of the elimination."""
        return max(abs(loss), self._energy / 2)

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        assert column is not None, "a pick travels with its contribution"
        outside = self._outside(column.unsqueeze(0))
        if outside.any():
            self._basis = torch.cat([self._basis, outside / outside.norm()])
        self._residual = self._residual - self._residual @ self._basis.T @ self._basis
        self.advance(pick)

    def _outside(self, rows: Tensor) -> Tensor:
        """What of each row is orthogonal to the picks."""
        for _ in range(2):
            rows = rows - rows @ self._basis.T @ self._basis
        return rows

    def _evaluate(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._contributions(candidates)
        outside = self._outside(rows)
        lengths = outside.square().sum(1)
        gains = (outside @ self._residual).square() / lengths
        gains.masked_fill_(lengths <= least_share() * rows.square().sum(1), 0.0)
        losses = (self._residual.square().sum() - gains).clamp_(min=0.0)
        steps = torch.full_like(gains, 1.0 / (self.position + 1))
        return losses / (2 * self._source.num_samples), steps


def fit_of(source: Contributions, target: Tensor, picks: Sequence[int]) -> Tensor:
    """The fit of all prefixes of ``picks`` at once; see ``GreedyPath.fit``.

        [Phi y] = Q R,  Q'Q = 1,  R = [[R_11, z], ...]:    the first k picks weigh R_kk c = z_k

    Samples are added chunk by chunk, each to the triangle of those before it.

    Args:
        source: contributions of all candidates.
        target: (samples,) or (samples, outputs).

    Returns:
        ``[R_11 z]``, float64 (picks, picks + 1).
    """
    index, width = torch.tensor(picks, dtype=torch.int64), source.num_outputs
    flat = target.reshape(1, -1).to(source.device, torch.float64)
    triangle = flat.new_zeros(len(picks) + 1, len(picks) + 1)
    for start, stop in chunks(source):
        rows = source.tile(index, start, stop).to(torch.float64)
        joined = torch.cat([rows, flat[:, start * width : stop * width]]).T
        triangle = torch.linalg.qr(torch.cat([triangle, joined]), mode="r").R
    return triangle[:-1].cpu()


def fit_of_moments(gram: Tensor, correlation: Tensor, picks: Sequence[int]) -> Tensor:
    """The same from ``A'A`` and ``A'y`` of all candidates, float64."""
    index = torch.tensor(picks, dtype=torch.int64)
    inner = gram[index][:, index].cpu()
    inner.diagonal().add_(inner.diagonal() == 0)  # a candidate that is zero: its weight is
    factor = torch.linalg.cholesky(inner).T
    target = correlation[index].cpu().unsqueeze(1)
    return torch.cat([factor, torch.linalg.solve_triangular(factor.T, target, upper=False)], 1)
