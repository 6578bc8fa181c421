"""Block orthogonal least squares: each score already assumes refitted weights.

A candidate is a block of ``b`` inputs (a channel and its kernel positions) of one or more linear
maps. With the second moments ``A`` of the inputs and ``B`` of inputs with the target, what is
left to explain once the picks are refitted is eliminated from both, as in Gaussian elimination:

    gain_i = tr(B_i' A_ii^-1 B_i) / 2
    A <- A - A_:j A_jj^-1 A_j:,     B <- B - A_:j A_jj^-1 B_j      after pick j

A rank holds the rows of its own candidates. The winner's rows travel: ``b`` times the columns
that are left, and ``b x outputs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.errors import NonFiniteError, ShapeError
from gfs_dist.selection.weights import WEIGHTS

FLUSH = 16
"""Picks whose elimination is held back and then applied in one product of matrices, which reads
and writes the moments once instead of sixteen times."""


@dataclass(frozen=True)
class BlockMoments:
    """Second moments of one linear map, per sample.

    Attributes:
        inputs: ``A``, float64 (n b, n b), symmetric, positive definite (damped); candidate ``i``
            owns rows ``i b`` to ``(i + 1) b``.
        target: ``B``, float64 (n b, outputs).
        energy: mean squared length of the target.
    """

    inputs: Tensor
    target: Tensor
    energy: float


class BlockLeastSquares:
    """Squared loss of the refitted maps, ``sum_maps min_V |y - x V|^2 / (2 samples)``.

    Always without replacement: a picked block has nothing left to give. See
    :class:`gfs_dist.selection.objective.Objective`.

    Args:
        maps: moments of each linear map that reads the candidates.
        num_candidates: ``n``, the same for all.
        own: sorted candidates of this rank, int64.

    Raises:
        ShapeError: a map's moments do not divide into ``n`` blocks.
        NonFiniteError: NaN or infinite moments.

    Source: orthogonal least squares (Chen, Billings, Luo 1989), a block at a time.
    """

    def __init__(self, maps: Sequence[BlockMoments], num_candidates: int, own: Tensor) -> None:
        self.own, self.num_candidates = own, num_candidates
        self.weights = WEIGHTS["uniform"]
        self.position = 0
        self.scale = self.loss = sum(m.energy for m in maps) / 2
        self._maps = [_Map(m, num_candidates, own) for m in maps]
        self._picked = torch.zeros(num_candidates, dtype=torch.bool)
        self._columns: dict[int, Tensor] = {}

    def scores(self) -> Tensor:
        """Loss after adding each own candidate: float64 (num_own,), +inf where picked."""
        gains = sum((m.gains() for m in self._maps), torch.zeros(len(self.own)).double())
        return (self.loss - gains.cpu()).masked_fill(self._picked[self.own], torch.inf)

    def score(self, pick: int) -> float:
        """Exact loss after adding one own candidate."""
        return float(self.scores()[self._place(pick)])

    def step_size(self, pick: int) -> float:
        """1/k by convention: weights are refitted."""
        return 1.0 / (self.position + 1)

    def column(self, pick: int, k: int) -> Tensor:
        """The winner's rows of ``A`` (columns not yet flushed away) and of ``B``, one after another."""
        if pick in self._columns:
            return self._columns[pick]
        width = sum(m.column_length(k - 1) for m in self._maps)
        if not self._owns(pick):
            return torch.empty(width, dtype=torch.float64, device=self._maps[0].device)
        place = self._place(pick)
        self._columns[pick] = torch.cat([m.column(pick, place) for m in self._maps])
        return self._columns[pick]

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        """Eliminate ``pick`` from what is left to explain."""
        assert column is not None
        lengths = [m.column_length(self.position) for m in self._maps]
        for m, part in zip(self._maps, column.split(lengths), strict=True):
            m.eliminate(pick, part)
        self._picked[pick] = True
        self.position += 1
        self.loss = loss
        if self.position % FLUSH == 0:
            for m in self._maps:
                m.flush(self._picked)

    def _owns(self, pick: int) -> bool:
        place = self._place(pick)
        return place < len(self.own) and int(self.own[place]) == pick

    def _place(self, pick: int) -> int:
        return int(torch.searchsorted(self.own, pick))


class _Map:
    """What one rank holds of one linear map.

    Columns of picks stay until the next flush, so that every rank knows from the number of picks
    alone how long a row is.
    """

    def __init__(self, moments: BlockMoments, num_candidates: int, own: Tensor) -> None:
        rows, outputs = moments.target.shape
        if rows % num_candidates or moments.inputs.shape != (rows, rows):
            raise ShapeError(
                f"moments: found inputs {tuple(moments.inputs.shape)} and target {(rows, outputs)}, "
                f"accepted both with {num_candidates} blocks of rows"
            )
        if not (torch.isfinite(moments.inputs).all() and torch.isfinite(moments.target).all()):
            raise NonFiniteError("moments: found NaN or infinite values")
        n, b = num_candidates, rows // num_candidates
        self.block, self.outputs, self.num_candidates = b, outputs, n
        self.device = moments.inputs.device
        own = own.to(self.device)
        self.left = torch.arange(n, device=self.device)  # candidates whose columns are held
        self.own_left = torch.arange(len(own), device=self.device)  # places whose rows are held
        self.rows = moments.inputs.view(n, b, n * b)[own].clone()
        self.target = moments.target.view(n, b, outputs)[own].clone()
        self.diagonal = self.rows.view(len(own), b, n, b)[
            torch.arange(len(own), device=self.device), :, own
        ].clone()
        self.own = own
        self.pending: list[Tensor] = []  # L^-1 A_j: of picks since the last flush, (b, left, b)

    def gains(self) -> Tensor:
        """``tr(B_i' A_ii^-1 B_i) / 2`` of own candidates; of picked ones without meaning."""
        if len(self.own) == 0:
            return torch.zeros(0, dtype=torch.float64)
        products = self.target @ self.target.mT
        return (torch.linalg.inv(self.diagonal) * products).sum((1, 2)) / 2

    def column_length(self, position: int) -> int:
        left = self.num_candidates - position // FLUSH * FLUSH
        return self.block * (left * self.block + self.outputs)

    def column(self, pick: int, place: int) -> Tensor:
        """Rows of an own candidate with all picks eliminated, then its rows of ``B``."""
        held = int(torch.searchsorted(self.own_left, place))
        at = int(torch.searchsorted(self.left, pick))
        rows = self.rows[held].clone()
        for before in self.pending:
            rows -= before[:, at].T @ before.flatten(1)
        return torch.cat([rows.flatten(), self.target[place].flatten()])

    def eliminate(self, pick: int, column: Tensor) -> None:
        b, left = self.block, len(self.left)
        rows, target = column.to(self.device).split([b * left * b, b * self.outputs])
        rows, target = rows.view(b, left * b), target.view(b, self.outputs)
        at = int(torch.searchsorted(self.left, pick))
        factor = torch.linalg.cholesky(rows[:, at * b : (at + 1) * b])
        rows = torch.linalg.solve_triangular(factor, rows, upper=False).view(b, left, b)
        target = torch.linalg.solve_triangular(factor, target, upper=False)
        self.pending.append(rows)
        own = self.own[self.own_left]
        mine = rows[:, torch.searchsorted(self.left, own)].transpose(0, 1)  # (own left, b, b)
        self.diagonal[self.own_left] -= mine.mT @ mine
        self.target[self.own_left] -= mine.mT @ target
        # A picked block is all but singular; the identity keeps its inverse harmless.
        place = int(torch.searchsorted(self.own, pick))
        if place < len(self.own) and int(self.own[place]) == pick:
            self.diagonal[place] = torch.eye(b, dtype=torch.float64, device=self.device)
            self.target[place] = 0

    def flush(self, picked: Tensor) -> None:
        """Apply what is pending, and drop the rows and columns of picks."""
        picked = picked.to(self.device)
        keep, rows_kept = ~picked[self.left], ~picked[self.own[self.own_left]]
        updates = torch.cat(self.pending)[:, keep]  # (FLUSH b, left, b)
        self.left, self.own_left = self.left[keep], self.own_left[rows_kept]
        own = torch.searchsorted(self.left, self.own[self.own_left])
        b = self.block
        held = self.rows[rows_kept].view(len(own), b, len(keep), b)[:, :, keep]
        width = len(self.left) * b
        rows = held.reshape(len(own) * b, width)
        mine, theirs = updates[:, own].flatten(1), updates.flatten(1)
        rows -= mine.T @ theirs
        self.rows = rows.view(len(own), b, width)
        self.pending = []
