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
that a run on ahead picks first (``look_ahead.py``); then for those whose loss would be least with
two thirds of the step size, as if the search were that much further on. Rank 0 learns from the
others what it takes, and tells them, so that all make the same columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gfs_dist.selection.objective import Communicator, SingleRank
from gfs_dist.selection.objectives.block_least_squares import one_thread
from gfs_dist.selection.objectives.gram_columns import Columns
from gfs_dist.selection.objectives.look_ahead import Outlook, losses_after, towards
from gfs_dist.selection.objectives.owned_candidates import OwnCandidates
from gfs_dist.selection.step_sizes import StepSizeRule

AHEAD = 1.5
"""How much further on the search is taken to be, to tell what may be picked soon."""
NEAR = 4096
"""Candidates that take part in a run on ahead. Of 20,000 neurons two fifths more passes are needed
with 2,048; of 4,000 a tenth more with 1,024, and a third more with 512."""
LOOKED_AHEAD = 2**22
"""Numbers of all contributions from which on a search looks ahead: fewer are read in less time."""
SPAN = 256
"""Columns that foresee others at most, the last ones made. With half as many up to a fifth more
passes are needed."""


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
        self._whole: dict[int, Tensor] = {}
        self._communicator: Communicator = SingleRank()

    def join(self, communicator: Communicator) -> None:
        """Learn the length of every candidate, ``sqrt(D_i)``, from the rank that owns it, and which
        columns all ranks have.
        """
        held = torch.zeros(self.num_candidates, dtype=torch.float64)
        held[list(self.columns.held)] = 1.0
        told = torch.cat([self._told(self.columns.diagonal.sqrt()), held])
        self._lengths, held = communicator.minimum(told).split(self.num_candidates)
        self.columns.keep(held)
        self._whole.clear()
        self._communicator = communicator

    def _told(self, values: Tensor) -> Tensor:
        """Values of the own candidates, as ranks tell them to each other by a minimum."""
        told = torch.full((self.num_candidates,), torch.inf, dtype=torch.float64)
        told[self.own] = values.cpu()
        return told

    def magnitude(self, loss: float) -> float:
        return squared_magnitude(loss, self._spread, self.columns.offset)

    def scores(self) -> Tensor:
        self._step_sizes, losses = self._after(1.0)
        return losses

    def _after(self, ahead: float) -> tuple[Tensor, Tensor]:
        """Each own candidate's step size, and the loss after an ``ahead``-th of it."""
        slope, curvature = towards(self._inner, self.columns.diagonal, self._loss)
        steps = self.weights.step_sizes(self.position + 1, slope, curvature)
        return steps, self.exclude(losses_after(slope, curvature, steps / ahead, self._loss))

    def score(self, pick: int) -> float:
        return float(self.scores()[self.own_place(pick)])

    def column(self, pick: int, k: int) -> None:
        """Nothing travels: all ranks have the contributions of all candidates."""
        if pick in self.columns.held:
            return
        promise = self._promise(pick, k)
        if self.columns.numbers < LOOKED_AHEAD:
            promise = self._told(promise)
        else:
            promise, inner = self._gathered(promise)
            if self._communicator.rank == 0:
                # One rank decides: the last bits of a factorisation are those of its processor.
                with one_thread():  # a quarter of the time of two where one core is busy
                    self._look_ahead(promise, inner, k)
        self.columns.make(self._communicator.minimum(promise))

    def _promise(self, pick: int, k: int) -> Tensor:
        """How likely each own candidate is picked from pick ``k`` on: least for the first."""
        _, losses = self._after(AHEAD)
        for other, step in self.first_steps.items():
            # This rank waits for others that are behind: it knows what they will pick.
            if step >= k and (place := self.place(other)) is not None:
                losses[place] = -1.0 / step
        if (place := self.place(pick)) is not None:
            losses[place] = -torch.inf
        return losses

    def _gathered(self, promise: Tensor) -> tuple[Tensor, Tensor]:
        """The promise and ``c_i`` of all candidates; columns become known as a whole."""
        held = list(self.columns.held)[-SPAN:]
        self._whole = {pick: self._whole[pick] for pick in held if pick in self._whole}
        new = [pick for pick in held if pick not in self._whole]
        own = [promise, self._inner, *map(self.columns.gram, new)]
        told = self._communicator.minimum(torch.cat([self._told(values) for values in own]))
        promise, inner, *columns = told.split(self.num_candidates)
        if len(self.own) == self.num_candidates:
            columns = [column.cpu() for column in own[2:]]  # not held twice
        self._whole.update(zip(new, columns, strict=True))
        return promise, inner

    def _look_ahead(self, promise: Tensor, inner: Tensor, k: int) -> None:
        """Give those candidates the promise 0 whose columns a run on ahead needs first."""
        near = promise.argsort(stable=True)[: min(NEAR, int((promise < torch.inf).sum()))]
        places = torch.full((self.num_candidates,), -1)
        places[near] = torch.arange(len(near))
        held = torch.tensor(list(self._whole))
        both = torch.cat([near, held])
        outlook = Outlook(
            k, self._loss, self.weights, self._repeats, inner[near],
            self._lengths[near].square(),
            torch.stack([column.index_select(0, both) for column in self._whole.values()]),
            places[held].tolist(),
        )  # fmt: skip
        soon = near[outlook.needed(self.columns.at_once)]
        promise[soon] = promise[soon].clamp(max=0.0)

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        self._inner += step_size * (self.columns.gram(pick) - self._inner)
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
