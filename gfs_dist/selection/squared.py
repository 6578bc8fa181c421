"""Squared loss in Gram form: ``L[u] = |u - y|^2 / (2 m)`` over m samples.

Only moments enter a step (PAPER: equations 9-11, residual and Gram form). With inner products
divided by m, ``c_i = <phi_i, u>``, ``p_i = <phi_i, y>``, ``G_ij = <phi_i, phi_j>``:

    slope_i     = <u - y, phi_i - u>  = c_i - p_i - (<u, u> - <u, y>)
    curvature_i = |phi_i - u|^2       = G_ii - 2 c_i + <u, u>
    L after i   = L + g slope_i + g^2 curvature_i / 2
    c           <- c + g (G_:j - c)   after pick j

How ``G_:j`` is come by is what tells the methods apart (``columns.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gfs_dist.selection.columns import Columns
from gfs_dist.selection.state import OwnCandidates
from gfs_dist.selection.weights import Weights


class Squared(OwnCandidates):
    """The squared loss for the candidates that ``columns`` were set up for.

    Args:
        columns: Gram columns, diagonal and correlation of the own candidates.
        energy: ``<y, y> / m``, so that the empty network has the loss ``energy / 2``.
        weights: rule for step sizes.
        replacement: whether a candidate may be picked again.
    """

    def __init__(
        self, columns: Columns, energy: float, weights: Weights, replacement: bool
    ) -> None:
        super().__init__(columns.num_candidates, columns.own, weights, replacement)
        self.columns = columns
        self.scale = energy / 2
        self._energy = energy
        self._loss = energy / 2
        self._inner = torch.zeros_like(columns.diagonal)
        self._output_energy = 0.0
        self._output_correlation = 0.0
        self._step_sizes = self._inner

    def scores(self) -> Tensor:
        slope = self._inner - self.columns.correlation
        slope -= self._output_energy - self._output_correlation
        curvature = torch.add(self.columns.diagonal, self._inner, alpha=-2.0)
        curvature += self._output_energy
        curvature.clamp_(min=0.0)
        steps = self.weights.step_sizes(self.position + 1, slope, curvature)
        self._step_sizes = steps
        slope += (steps * curvature).mul_(0.5)
        # A loss that is zero may come out as rounding below it.
        return self.exclude(slope.mul_(steps).add_(self._loss).clamp_(min=0.0))

    def score(self, pick: int) -> float:
        place = self.place(pick)
        assert place is not None, "only the owner scores a pick"
        return float(self.scores()[place])

    def step_size(self, pick: int) -> float:
        place = self.place(pick)
        assert place is not None, "only the owner knows a step size"
        return float(self._step_sizes[place])

    def column(self, pick: int, k: int) -> Tensor | None:
        return self.columns.share(pick, self.place(pick), self.is_first(pick, k))

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        gram_column, correlation = self.columns.gram(pick, column)
        self._inner += step_size * (gram_column - self._inner)
        self._output_correlation += step_size * (correlation - self._output_correlation)
        # Not accumulated: it follows from the loss on which all ranks agreed.
        self._output_energy = 2 * loss - self._energy + 2 * self._output_correlation
        self._loss = loss
        self.advance(pick)
