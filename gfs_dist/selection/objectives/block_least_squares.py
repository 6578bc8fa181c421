"""Block orthogonal least squares: each score already assumes refitted weights.

A candidate is a block of ``b`` inputs (a channel and its kernel positions) of one or more linear
maps. With the second moments ``A`` of the inputs and ``B`` of inputs with the target, each pick is
eliminated from both, as in Gaussian elimination:

    gain_i = tr(B_i' A_ii^-1 B_i) / 2
    A <- A - A_:j A_jj^-1 A_j:,     B <- B - A_:j A_jj^-1 B_j      after pick j

One thread computes everything but the products of flushes: with several threads, waiting for a busy
core at each of these small products took 33 s instead of 1.4 s (256 channels); they save a tenth
where no core is busy.

A rank holds the rows of its own candidates. The winner's rows travel: ``b`` times the remaining
columns, and ``b x outputs``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.errors import NonFiniteError, ShapeError
from gfs_dist.selection.objectives.owned_candidates import OwnCandidates
from gfs_dist.selection.step_sizes import REFITTED, WEIGHTS

FLUSH = 256
"""Rows of picks whose elimination is deferred and then applied in one product of matrices, which
reads and writes the moments once instead of once a pick. With 512 channels and a 3x3 kernel
flushes take half the time that they take with 128, and rows of picks 0.1 s more."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class BlockMoments:
    """A rank's second moments of one linear map, per sample.

    Attributes:
        inputs: rows of ``A`` of own candidates, ``b`` each, float64 (num_own b, n b). All rows
            together are symmetric, and positive definite once damped.
        target: the same rows of ``B``, float64 (num_own b, outputs).
        energy: mean squared length of the target.
        damping: added to the diagonal of ``A``; the same on all ranks.
        least_share: candidates of one input that keep this share of their ``A_ii`` or less are
            combinations of the picks, up to rounding, and have no gain. Needs no damping.
    """

    inputs: Tensor
    target: Tensor
    energy: float
    damping: float = 0.0
    least_share: float = 0.0


class BlockLeastSquares(OwnCandidates):
    """Squared loss of the refitted maps, ``sum_maps min_V |y - x V|^2 / (2 samples)``.

    Always without replacement: a picked block has no gain left.

    Args:
        maps: moments of each linear map that reads the candidates; not modified.
        num_candidates: ``n``, the same for all.
        own: sorted candidates of this rank, int64.
        to_the_end: whether candidates without a gain are picked too; else they end the search.

    Raises:
        ShapeError: a map's moments do not divide into blocks of ``n`` candidates.
        NonFiniteError: NaN or infinite moments.

    Source: orthogonal least squares (Chen, Billings, Luo 1989), a block at a time.
    """

    def __init__(
        self,
        maps: Sequence[BlockMoments],
        num_candidates: int,
        own: Tensor,
        to_the_end: bool = True,
    ) -> None:
        weights = WEIGHTS["uniform"] if to_the_end else REFITTED
        super().__init__(num_candidates, own, weights, replacement=False)
        self.empty_loss = self.loss = sum(m.energy for m in maps) / 2
        self._maps = [_Map(m, num_candidates, own) for m in maps]
        self._columns: dict[int, Tensor] = {}

    def magnitude(self, loss: float) -> float:
        """The energy of the target, from which gains are subtracted."""
        return max(abs(loss), self.empty_loss)

    def scores(self) -> Tensor:
        with one_thread():
            gains = torch.stack([m.gains() for m in self._maps]).sum(0)
        return self.exclude((self.loss - gains.cpu()).clamp_(min=0.0))

    def score(self, pick: int) -> float:
        return float(self.scores()[self.own_place(pick)])

    def step_size(self, pick: int) -> float:
        """1/k by convention: weights are refitted."""
        return 1.0 / (self.position + 1)

    def column(self, pick: int, k: int) -> Tensor:
        """The winner's rows of ``A`` (columns not dropped before pick ``k``), then those of ``B``.

        Kept for ranks that are behind and need it when its rows are dropped here.
        """
        if pick in self._columns:
            return self._columns[pick]
        width = sum(m.column_length(k - 1) for m in self._maps)
        if (place := self.place(pick)) is None:
            return torch.empty(width, dtype=torch.float64, device=self._maps[0].device)
        with one_thread():
            self._columns[pick] = torch.cat([m.column(pick, place) for m in self._maps])
        return self._columns[pick]

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        """Eliminate ``pick`` from ``A`` and ``B``."""
        assert column is not None, "a pick travels with its rows"
        lengths = [m.column_length(self.position) for m in self._maps]
        with one_thread():
            for m, part in zip(self._maps, column.split(lengths), strict=True):
                m.eliminate(pick, part)
        self.advance(pick)
        self.loss = loss
        for m in self._maps:
            if self.position % m.held_back == 0:
                m.flush(self._picked)


class _Map:
    """One rank's rows of one linear map.

    Rows and columns of picks stay until the next flush, so that the length of a row follows from
    the number of picks on every rank.

    Moments are in units of a power of two near the damping, so that their products neither
    overflow nor vanish before they do.

    Attributes:
        unit: of moments and gains.
        held_back: picks from one flush to the next.
        left: candidates whose columns are held.
        own_left: places among the own candidates whose rows are held.
        at: places of these in ``left``.
        rows: ``A`` (own left, b, left b), without pending eliminations.
        diagonal: own blocks of ``A`` (own left, b, b), nothing pending.
        least: ``A_ii`` (b = 1) at which a candidate is a combination of the picks (own left,).
        target: ``B`` (own left, b, outputs), nothing pending.
        pending: ``L^-1 A_j:`` of picks since the last flush, (held_back, b, left, b), of which the
            first ``num_pending`` are filled.
    """

    def __init__(self, moments: BlockMoments, num_candidates: int, own: Tensor) -> None:
        rows, columns = moments.inputs.shape
        if columns % num_candidates or {rows, len(moments.target)} != {
            columns // num_candidates * len(own)
        }:
            raise ShapeError(
                f"moments: found inputs {(rows, columns)} and target "
                f"{tuple(moments.target.shape)}, accepted blocks of columns of {num_candidates} "
                f"candidates and of rows of {len(own)}"
            )
        finite = all(torch.isfinite(part).all() for part in (moments.inputs, moments.target))
        if not finite or not math.isfinite(moments.energy):
            raise NonFiniteError("moments: found NaN or infinite values")
        self.unit = 2.0 ** math.frexp(moments.damping or 1.0)[1]
        n, b, outputs = num_candidates, columns // num_candidates, moments.target.shape[1]
        self.block, self.outputs, self.num_candidates = b, outputs, n
        self.held_back = max(1, FLUSH // b)
        self.device = moments.inputs.device
        self.own = own.to(self.device)
        self.left = torch.arange(n, device=self.device)
        self.own_left = torch.arange(len(own), device=self.device)
        self.at = self.own
        inputs = moments.inputs.reshape(-1, b, n * b)
        self.rows = torch.div(inputs, self.unit, out=inputs.new_empty(inputs.shape))
        blocks = self.rows.view(-1, b, n, b)
        self.diagonal = blocks[self.own_left, :, self.own]
        self.diagonal.diagonal(dim1=1, dim2=2).add_(moments.damping / self.unit)
        blocks[self.own_left, :, self.own] = self.diagonal
        self.least = moments.least_share * self.diagonal[:, 0, 0]
        self.target = moments.target.reshape(-1, b, outputs) / self.unit
        self._expect_picks()

    def gains(self) -> Tensor:
        """``tr(B_i' A_ii^-1 B_i) / 2`` of own candidates; of picked ones without meaning."""
        gains = torch.zeros(len(self.own), dtype=torch.float64, device=self.device)
        if len(self.own_left):
            gains[self.own_left] = self._traces() / 2
        return self.unit * gains

    def _traces(self) -> Tensor:
        if self.block == 1:
            pivots = self.diagonal[:, 0, 0]
            traces = (self.target[:, 0] / pivots.sqrt()[:, None]).square().sum(1)
            return traces.masked_fill_(pivots <= self.least, 0.0)
        products = self.target @ self.target.mT
        return (torch.linalg.inv(self.diagonal) * products).sum((1, 2))

    def column_length(self, position: int) -> int:
        left = self.num_candidates - position // self.held_back * self.held_back
        return self.block * (left * self.block + self.outputs)

    def column(self, pick: int, place: int) -> Tensor:
        """Rows of an own candidate with all picks eliminated, then its rows of ``B``."""
        held = int(torch.searchsorted(self.own_left, place))
        at = int(torch.searchsorted(self.left, pick))
        rows, before = self.rows[held].clone(), self.pending[: self.num_pending]
        rows.addmm_(before[:, :, at].flatten(0, 1).T, before.flatten(0, 1).flatten(1), alpha=-1)
        return torch.cat([rows.flatten(), self.target[held].flatten()])

    def eliminate(self, pick: int, column: Tensor) -> None:
        b, left = self.block, len(self.left)
        rows, target = column.to(self.device).split([b * left * b, b * self.outputs])
        rows, target = rows.view(b, left * b), target.view(b, self.outputs)
        at = int(torch.searchsorted(self.left, pick))
        pivot = rows[:, at * b : (at + 1) * b]
        if not pivot.any():  # a candidate that is zero changes nothing
            pivot = torch.eye(b, dtype=torch.float64, device=self.device)
        factor = torch.linalg.cholesky(pivot)
        rows = torch.linalg.solve_triangular(factor, rows, upper=False).view(b, left, b)
        target = torch.linalg.solve_triangular(factor, target, upper=False)
        self.pending[self.num_pending] = rows
        self.num_pending += 1
        mine = rows[:, self.at]  # (b, own left, b)
        blocks = mine.transpose(0, 1)
        self.diagonal.baddbmm_(blocks.mT, blocks, alpha=-1)
        self.target.flatten(0, 1).addmm_(mine.flatten(1).T, target, alpha=-1)
        # A picked block is all but singular; the identity keeps its inverse harmless.
        picked = self.at == at
        self.diagonal[picked] = torch.eye(b, dtype=torch.float64, device=self.device)
        self.target[picked] = 0

    def flush(self, picked: Tensor) -> None:
        """Drop the rows and columns of picks, and apply pending eliminations to the others."""
        picked = picked.to(self.device)
        columns = (~picked[self.left]).nonzero().flatten()
        rows = (~picked[self.own[self.own_left]]).nonzero().flatten()
        updates = self.pending[: self.num_pending].flatten(0, 1)[:, columns]  # (picks b, left, b)
        with one_thread():
            self.rows = _compact(self.rows, rows, columns, self.block)
        self.diagonal, self.target = self.diagonal[rows], self.target[rows]
        self.least = self.least[rows]
        self.left, self.own_left = self.left[columns], self.own_left[rows]
        self.at = torch.searchsorted(self.left, self.own[self.own_left])
        mine, theirs = updates[:, self.at].flatten(1), updates.flatten(1)
        self.rows.flatten(0, 1).addmm_(mine.T, theirs, alpha=-1)
        self._expect_picks()

    def _expect_picks(self) -> None:
        """Nothing is pending; there is room for the picks until the next flush."""
        shape = (self.held_back, self.block, len(self.left), self.block)
        self.pending = torch.empty(shape, dtype=torch.float64, device=self.device)
        self.num_pending = 0


def _compact(matrix: Tensor, rows: Tensor, columns: Tensor, block: int) -> Tensor:
    """The given block rows and block columns, moved together at the front of the same memory.

    A copy would double the memory, and allocating it costs more than filling it.
    """
    count, _, width = matrix.shape
    old, memory = matrix.view(count, block, width // block, block), matrix.view(-1)
    size = block * len(columns) * block
    for place, row in enumerate(rows.tolist()):  # sorted: what is overwritten was moved before
        memory[place * size : (place + 1) * size] = old[row].index_select(1, columns).flatten()
    return memory[: len(rows) * size].view(len(rows), block, len(columns) * block)
