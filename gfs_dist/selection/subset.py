"""The best subset of a given size for least squares: forward, backward, then exact exchanges.

A candidate is a block of ``b`` inputs of a linear map. With second moments ``A`` of the inputs,
damped, and ``B`` of inputs with the target, candidates ``S`` with refitted weights explain

    f(S) = tr(B_S' A_SS^-1 B_S)

of the target's energy. Everything is read off ``A`` and ``B`` swept on ``S`` (``R``: the others):

    M = [ A_SS^-1          A_SS^-1 A_SR              ]      Y = [ A_SS^-1 B_S              ]
        [ -A_RS A_SS^-1    A_RR - A_RS A_SS^-1 A_SR  ]          [ B_R - A_RS A_SS^-1 B_S   ]

Taking ``i`` out lowers ``f``, or taking it in raises it, by ``tr(Y_i' M_ii^-1 Y_i)``; either is one
step of elimination, and so is each half of an exchange.

Source: the sweep operator (Goodnight 1979); stepwise selection with exchanges (Miller 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from gfs_dist.errors import NonFiniteError, ShapeError

TIE = 1e-9
"""Of what all candidates explain together: values closer than this are equal up to rounding, and
an exchange has to gain more."""


class SubsetSearch:
    """Subsets of the candidates of one linear map, by second moments.

    Args:
        inputs: ``A``, float64 (n b, n b), candidate by candidate, positive definite.
        target: ``B``, float64 (n b, outputs).
        num_candidates: ``n``.

    Raises:
        ShapeError: the moments do not divide into ``n`` blocks.
        NonFiniteError: NaN or infinite moments, or ``A`` is not positive definite.
    """

    def __init__(self, inputs: Tensor, target: Tensor, num_candidates: int) -> None:
        size = len(inputs)
        if inputs.shape != (size, size) or len(target) != size or size % num_candidates:
            raise ShapeError(
                f"moments: found inputs {tuple(inputs.shape)} and target {tuple(target.shape)}, "
                f"accepted (n b, n b) and (n b, outputs) of n = {num_candidates} candidates"
            )
        if not (torch.isfinite(inputs).all() and torch.isfinite(target).all()):
            raise NonFiniteError("moments: found NaN or infinite values")
        self.inputs, self.target = inputs, target
        self.num_candidates, self.block = num_candidates, size // num_candidates

    def best(self, start: Sequence[int]) -> list[int]:
        """The best that exchanges make of ``start``, of forward and of backward selection.

        Returns:
            As many candidates as ``start`` has, sorted. Ties: the first in this order.
        """
        best, most = sorted(start), self.explained(start)
        for found in (best, self.forward(len(best)), self.backward(len(best))):
            exchanged = self.exchange(found)
            if (explained := self.explained(exchanged)) > most + self.tie:
                best, most = exchanged, explained
        return best

    def forward(self, count: int) -> list[int]:
        """Candidates taken in one by one, each the one that then explains most."""
        swept = Swept(self, [])
        for _ in range(count):
            swept.toggle(lowest_best(swept.gains().masked_fill(swept.inside, -torch.inf), self.tie))
        return swept.members

    def backward(self, count: int) -> list[int]:
        """Candidates taken out of all one by one, each the one (of several the last) that is then
        missed least.
        """
        swept = Swept(self, range(self.num_candidates))
        for _ in range(self.num_candidates - count):
            lost = swept.gains().masked_fill(~swept.inside, torch.inf)
            swept.toggle(int((lost <= lost.min() + self.tie).nonzero()[-1]))
        return swept.members

    def exchange(self, start: Sequence[int]) -> list[int]:
        """One candidate out for another one in, always the best exchange, until none gains."""
        swept, best, most = Swept(self, start), sorted(start), self.explained(start)
        while exchanged := swept.best_exchange(self.tie):
            for candidate in exchanged:
                swept.toggle(candidate)
            if (explained := self.explained(swept.members)) <= most:
                break  # rounding
            best, most = swept.members, explained
        return best

    def explained(self, candidates: Sequence[int]) -> float:
        """``f(S)``, from a new factor of ``A_SS``."""
        rows = self.rows(torch.tensor(sorted(candidates)))
        factor = self.factor(rows)
        solved = torch.linalg.solve_triangular(factor, self.target[rows], upper=False)
        return float(solved.square().sum())

    @cached_property
    def tie(self) -> float:
        return TIE * self.explained(range(self.num_candidates))

    def factor(self, rows: Tensor) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(self.inputs[rows][:, rows])
        if failed:
            raise NonFiniteError("moments: the inputs' are not positive definite")
        return factor

    def rows(self, candidates: Tensor) -> Tensor:
        """Their inputs' places."""
        return (candidates[:, None] * self.block + torch.arange(self.block)).flatten()


class Swept:
    """The moments swept on some candidates.

    Attributes:
        matrix, values: ``M`` and ``Y``.
        inside: whether each candidate is one of ``S``.
    """

    def __init__(self, search: SubsetSearch, members: Sequence[int]) -> None:
        n = search.num_candidates
        self.block, self.inside = search.block, torch.zeros(n, dtype=torch.bool)
        self.inside[list(members)] = True
        self.matrix, self.values = search.inputs.clone(), search.target.clone()
        s, r = (search.rows(mask.nonzero().flatten()) for mask in (self.inside, ~self.inside))
        if not len(s):
            return
        factor = search.factor(s)
        across = search.inputs[s][:, r]
        solved = torch.cholesky_solve(across, factor)
        self.matrix[s[:, None], s] = torch.cholesky_inverse(factor)
        self.matrix[s[:, None], r], self.matrix[r[:, None], s] = solved, -solved.T
        self.matrix[r[:, None], r] -= across.T @ solved
        self.values[s] = torch.cholesky_solve(search.target[s], factor)
        self.values[r] -= across.T @ self.values[s]

    @property
    def members(self) -> list[int]:
        return self.inside.nonzero().flatten().tolist()

    def toggle(self, candidate: int) -> None:
        """Take a candidate in, or out if it is inside."""
        b = self.block
        own = slice(candidate * b, (candidate + 1) * b)
        inverse = torch.linalg.inv(self.matrix[own, own])
        row, value = inverse @ self.matrix[own], inverse @ self.values[own]
        column = self.matrix[:, own].clone()
        self.matrix.addmm_(column, row, alpha=-1)
        self.values.addmm_(column, value, alpha=-1)
        self.matrix[own], self.values[own] = row, value
        self.matrix[:, own] = -column @ inverse
        self.matrix[own, own] = inverse
        self.inside[candidate] = ~self.inside[candidate]

    def gains(self) -> Tensor:
        """What each candidate adds to ``f``: members less it, others with it (n,)."""
        return _traces(self._diagonal(), self._squares())

    def best_exchange(self, least: float) -> tuple[int, int] | None:
        """The member and the other whose exchange gains most, if it is more than ``least``.

        With ``T = M_ii^-1 M_ij``, taking ``i`` out leaves ``M_jj + M_ij' T`` and ``Y_j + T' Y_i``
        of ``j``.
        """
        members, others = (mask.nonzero().flatten() for mask in (self.inside, ~self.inside))
        if not len(members) or not len(others):
            return None
        b, diagonal, squares = self.block, self._diagonal(), self._squares()
        lost = _traces(diagonal, squares)
        blocks = self.matrix.view(len(self.inside), b, -1, b)
        values = self.values.view(len(self.inside), b, -1)
        most, found = least, None
        for i in members.tolist():
            across = blocks[i][:, others].transpose(0, 1)
            moved = torch.linalg.solve(diagonal[i], across)
            met = moved.mT @ (values[i] @ values[others].mT)
            then = squares[others] + met + met.mT + moved.mT @ squares[i] @ moved
            gains = _traces(diagonal[others] + across.mT @ moved, then) - lost[i]
            j = lowest_best(gains, least)
            if gains[j] > most + (least if found else 0.0):
                most, found = float(gains[j]), (i, int(others[j]))
        return found

    def _diagonal(self) -> Tensor:
        every = torch.arange(len(self.inside))
        return self.matrix.view(len(every), self.block, len(every), self.block)[every, :, every]

    def _squares(self) -> Tensor:
        values = self.values.view(len(self.inside), self.block, -1)
        return values @ values.mT


def _traces(matrices: Tensor, squares: Tensor) -> Tensor:
    """``tr(M^-1 Q)`` of each pair (..., b, b), both symmetric."""
    return (torch.linalg.inv(matrices) * squares).sum((-2, -1))


def lowest_best(values: Tensor, tie: float) -> int:
    """The first place whose value is the largest, up to ``tie``."""
    return int((values >= values.max() - tie).to(torch.uint8).argmax())
