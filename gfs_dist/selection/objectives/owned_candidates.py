"""What objectives share: a rank's own candidates, the picks so far, and exclusion of picks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gfs_dist.errors import InputError
from gfs_dist.selection.objective import Communicator
from gfs_dist.selection.step_sizes import MAX_CANDIDATES, StepSizeRule


class OwnCandidates:
    """Base of objectives; subclasses set ``_step_sizes`` in ``scores``, by place."""

    divides_samples = False
    only_new = False
    _step_sizes: Tensor | Mapping[int, float]

    def __init__(
        self, num_candidates: int, own: Tensor, weights: StepSizeRule, replacement: bool
    ) -> None:
        if num_candidates >= MAX_CANDIDATES:
            raise InputError(f"neurons: found {num_candidates}, accepted below {MAX_CANDIDATES}")
        self.num_candidates = num_candidates
        self.own = own.to("cpu", torch.int64)
        self.weights, self.replacement = weights, replacement
        self.position = 0
        self._picked = torch.zeros(num_candidates, dtype=torch.bool)
        self.first_steps: dict[int, int] = {}

    def join(self, communicator: Communicator) -> None:
        """Nothing is needed of other ranks."""

    @property
    def remaining(self) -> Tensor:
        """Own candidates that may be picked, sorted."""
        return self.own if self._repeats else self.own[~self._picked[self.own]]

    @property
    def _repeats(self) -> bool:
        return self.replacement and not self.only_new

    def place(self, pick: int) -> int | None:
        """Place of ``pick`` among the own candidates; None for another rank's."""
        if len(self.own) == self.num_candidates:
            return pick
        place = int(torch.searchsorted(self.own, pick))
        return place if place < len(self.own) and int(self.own[place]) == pick else None

    def own_place(self, pick: int) -> int:
        """Place of ``pick``, which this rank owns."""
        place = self.place(pick)
        assert place is not None, "only the owner scores a pick and knows its step size"
        return place

    def step_size(self, pick: int) -> float:
        return float(self._step_sizes[self.own_place(pick)])

    def exclude(self, scores: Tensor) -> Tensor:
        """``scores`` on the CPU, +inf where a candidate may not be picked again."""
        scores = scores.cpu()
        if self._repeats:
            return scores
        return scores.masked_fill(self._picked[self.own], torch.inf)

    def advance(self, pick: int) -> None:
        """Count a pick."""
        self.position += 1
        self.first_steps.setdefault(pick, self.position)
        self._picked[pick] = True
