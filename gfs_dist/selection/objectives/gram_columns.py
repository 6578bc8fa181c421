"""Gram columns of deviations, made when a pick needs one.

A pick without a column takes one pass over the contributions, which makes the columns of the
candidates most likely to be picked next along with it: 16 columns cost a processor about twice what
reading the contributions costs. m numbers of a contribution, n candidates, P ranks, c columns kept;
q the cost of computing a number of a contribution again (1 if it is read):

    method       memory             a step
    lazy         (m + c) n/P        n/P, and for every few new picks m n/P
    streaming    c n/P              n/P, and for every few new picks q m n/P

Several ranks tell each other the columns that they made, and keep 256 of all candidates.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from gfs_dist.selection.objectives.contributions import Contributions, check_finite
from gfs_dist.selection.objectives.own_deviations import PICKS, OwnDeviations

MOST_AT_ONCE = 256
"""Columns of a pass at most."""
LEAST_KEPT = 512
"""Columns that there is room for at least."""


class Columns(Protocol):
    """Moments of the own candidates' deviations, divided by the number of samples; float64.

    Attributes:
        own: global indices, int64 (num_own,).
        diagonal: ``|psi_i|^2`` (num_own,).
        numbers: of all contributions, which a pass reads.
        offset: 0; or the length of the subtracted target (root mean square over samples) where it
            is subtracted after multiplying, which costs digits.
    """

    num_candidates: int
    own: Tensor
    diagonal: Tensor
    numbers: int
    offset: float

    @property
    def held(self) -> Collection[int]:
        """Candidates whose columns are there, in the order in which these were made."""
        ...

    @property
    def at_once(self) -> int:
        """Columns that the next pass makes."""
        ...

    def keep(self, agreed: Tensor) -> None:
        """Drop the columns of all candidates for which ``agreed`` is 0."""
        ...

    def make(self, promise: Tensor) -> None:
        """Make the columns of the candidates with the least ``promise`` that have none.

        inf for those that cannot be picked; float64 (n,).
        """
        ...

    def gram(self, pick: int) -> Tensor:
        """``G_:j`` of the own candidates for pick j, which is held."""
        ...


class GramColumns:
    """Columns on demand; of contributions that are held, or read again for every pass.

    Raises:
        NonFiniteError: a contribution is NaN or too large; names neuron and sample.
    """

    offset = 0.0

    def __init__(self, deviations: OwnDeviations) -> None:
        source, own = deviations.source, deviations.own
        self.num_candidates, self.own = source.num_candidates, own
        self.numbers = source.num_candidates * source.num_samples * source.num_outputs
        self._deviations = deviations
        self._columns: dict[int, Tensor] = {}
        first = self._most_promising(deviations.first_sight.cpu())
        columns, self.diagonal = deviations.products(first, squares=True)
        self._add(first, columns)
        for wrong in own[~torch.isfinite(self.diagonal).cpu()][:1].split(1):
            row = deviations.of(wrong, 0, source.num_samples)
            check_finite(row, row.square().sum(1), wrong, 0, source.num_outputs)

    @property
    def held(self) -> Collection[int]:
        return self._columns.keys()

    def keep(self, agreed: Tensor) -> None:
        # In the same order on all ranks, whatever each of them did before.
        self._columns = {
            pick: self._columns[pick] for pick in sorted(self._columns) if agreed[pick]
        }

    def gram(self, pick: int) -> Tensor:
        return self._columns[pick]

    @property
    def at_once(self) -> int:
        source, hold = self._deviations.source, self._deviations.hold
        return most_at_once(source, hold, len(self._columns))

    def make(self, promise: Tensor) -> None:
        there, hopes = list(self._columns), promise.clone()
        hopes[there] = torch.inf
        new = self._most_promising(hopes)
        room = most_columns(self._deviations.source, self._deviations.hold)
        excess = max(0, len(there) + len(new) - room)
        for place in promise[there].argsort(descending=True, stable=True)[:excess].tolist():
            del self._columns[there[place]]
        columns, _ = self._deviations.products(new)
        self._add(new, columns)

    def _add(self, picks: list[int], columns: Tensor) -> None:
        # Copies: a view would keep the columns that it was made with.
        self._columns.update((pick, c.clone()) for pick, c in zip(picks, columns, strict=True))

    def _most_promising(self, promise: Tensor) -> list[int]:
        """As many candidates as a pass makes columns of."""
        best = promise.argsort(stable=True)[: self.at_once]
        return best[promise[best] < torch.inf].tolist()


def most_columns(source: Contributions, hold: bool) -> int:
    """Columns that are kept at most: as many as take a quarter of what float64 contributions take,
    or 512; of contributions that are not held, 512.
    """
    quarter = source.num_samples * source.num_outputs // 4 if hold else 0
    return min(source.num_candidates, max(LEAST_KEPT, quarter))


def most_at_once(source: Contributions, hold: bool, before: int) -> int:
    """Columns that a pass makes: a multiple of 16.

    One for eight that were made ``before``, so that long searches take few passes; and where
    contributions are computed again, as many as that costs multiply-adds a number.
    """
    wanted = max(before // 8, 0 if hold else source.remake_cost)
    return max(PICKS, min(wanted, MOST_AT_ONCE) // PICKS * PICKS)
