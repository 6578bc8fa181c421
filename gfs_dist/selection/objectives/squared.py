"""Squared loss in Gram form: ``L = |v|^2 / (2 m)`` over m samples, ``v`` the mean deviation.

Coefficients sum to 1, so the output less the target is the same combination of the deviations
``psi_i = phi_i - y`` that the output is of the contributions ``phi_i`` (PAPER: equations 9-11,
residual and Gram form). The target and a common offset are gone before anything is multiplied.
With inner products divided by m, ``c_i = <psi_i, v>``, ``D_i = |psi_i|^2``,
``G_ij = <psi_i, psi_j>`` and ``E = <v, v> = 2 L``:

    slope_i     = <v, psi_i - v>  = c_i - E
    curvature_i = |psi_i - v|^2   = D_i - 2 c_i + E
    L after i   = L + g slope_i + g^2 curvature_i / 2     (g = 1 at the first pick: D_i / 2)
    c           <- c + g (G_:j - c)                       after pick j

Gram columns ``G_:j`` are made on demand (``gram_columns.py``), for the pick and for the candidates
whose loss would be least with two thirds of the step size, as if the search were that much further
on: these are likely to be picked soon. Ranks tell each other the losses, so that all make the same
columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gfs_dist.selection.objective import Communicator, SingleRank
from gfs_dist.selection.objectives.gram_columns import Columns
from gfs_dist.selection.objectives.owned_candidates import OwnCandidates
from gfs_dist.selection.step_sizes import StepSizeRule

AHEAD = 1.5
"""How much further on the search is taken to be, to tell what will be picked. Searches of 600 to
4,000 neurons, 100 to 150 of them picked, then take 16 to 25 passes; with 1 or 2 up to a third more,
and no fewer by running ahead with the Gram matrix of 256 samples."""


class Squared(OwnCandidates):
    """The squared loss for the candidates that ``columns`` were set up for.

    ``replacement``: whether a candidate may be picked again.
    """

    def __init__(self, columns: Columns, weights: StepSizeRule, replacement: bool) -> None:
        super().__init__(columns.num_candidates, columns.own, weights, replacement)
        self.columns = columns
        self._loss = self._spread = 0.0
        self._inner = torch.zeros_like(columns.diagonal)
        self._step_sizes = self._inner
        self._lengths = torch.empty(0)
        self._communicator: Communicator = SingleRank()

    def join(self, communicator: Communicator) -> None:
        """Learn the length of every candidate, ``sqrt(D_i)``, from the rank that owns it, and which
        columns all ranks have.
        """
        told = torch.cat([self._told(self.columns.diagonal.sqrt()), self.columns.known()])
        self._lengths, known = communicator.minimum(told).split(self.num_candidates)
        self.columns.keep(known)
        self._communicator = communicator

    def _told(self, values: Tensor) -> Tensor:
        """Values of the own candidates, as ranks tell them to each other by a minimum."""
        told = torch.full((self.num_candidates,), torch.inf, dtype=torch.float64)
        told[self.own] = values.cpu()
        return told

    def magnitude(self, loss: float) -> float:
        return squared_magnitude(loss, self._spread, self.columns.offset)

    def scores(self) -> Tensor:
        slope, curvature = self._derivatives()
        steps = self.weights.step_sizes(self.position + 1, slope, curvature)
        self._step_sizes = steps
        return self.exclude(self._losses(slope, curvature, steps))

    def _derivatives(self) -> tuple[Tensor, Tensor]:
        """Slope and curvature of the loss towards each own candidate."""
        slope = self._inner - 2 * self._loss
        curvature = torch.add(self.columns.diagonal, self._inner, alpha=-2.0)
        return slope, curvature.add_(2 * self._loss).clamp_(min=0.0)

    def _losses(self, slope: Tensor, curvature: Tensor, steps: Tensor) -> Tensor:
        # A loss that is zero may come out as rounding below it.
        change = (steps * curvature).mul_(0.5).add_(slope).mul_(steps)
        return change.add_(self._loss).clamp_(min=0.0)

    def score(self, pick: int) -> float:
        return float(self.scores()[self.own_place(pick)])

    def column(self, pick: int, k: int) -> None:
        """Nothing travels: all ranks have the contributions of all candidates."""
        if self.columns.gram(pick) is None:
            promise = self._communicator.minimum(self._told(self._promise(k)))
            self.columns.make(pick, promise)

    def _promise(self, k: int) -> Tensor:
        """How likely each own candidate is picked soon after pick ``k``: least for the first."""
        slope, curvature = self._derivatives()
        steps = self.weights.step_sizes(self.position + 1, slope, curvature)
        losses = self.exclude(self._losses(slope, curvature, steps / AHEAD))
        for pick, step in self.first_steps.items():
            # This rank waits for others that are behind: it knows what they will pick.
            if step >= k and (place := self.place(pick)) is not None:
                losses[place] = 0.0
        return losses

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        gram = self.columns.gram(pick)
        assert gram is not None, "its column was made"
        self._inner += step_size * (gram - self._inner)
        self._spread += step_size * (float(self._lengths[pick]) - self._spread)
        # Not accumulated: the loss is what all ranks agreed on.
        self._loss = loss
        self.advance(pick)


def squared_magnitude(loss: float, spread: float, offset: float = 0.0) -> float:
    """Terms that make up a squared loss: ``(2 S + sqrt(2 loss) + 6 offset)^2 / 2``.

    A score is ``|(1 - g) v + g psi_i|^2 / 2`` multiplied out, ``v = sum_j w_j psi_j`` over the
    picks; every inner product is off by no more than ``gamma`` times the product of the lengths,
    so all of it by ``gamma ((1 - g) S + g |psi_i|)^2 / 2`` with the spread ``S = sum_j w_j
    |psi_j|``. A candidate with this loss has ``g |psi_i| <= (1 - g) |v| + sqrt(2 loss)``, and
    ``|v| <= S``. At the first pick that leaves the loss itself.

    Args:
        spread: ``S``, root mean square over samples; 0 before the first pick.
        offset: root mean square of the target where the inner products are not those of
            deviations: each length is then up to twice this longer.
    """
    return (2 * spread + math.sqrt(2 * max(loss, 0.0)) + 6 * offset) ** 2 / 2
