"""What every objective of this folder shares: own candidates, position, exclusion."""

from __future__ import annotations

import torch
from torch import Tensor

from gfs_dist.errors import InputError
from gfs_dist.selection.communicator import Communicator
from gfs_dist.selection.step_sizes import MAX_CANDIDATES, StepSizeRule


class OwnCandidates:
    """Book-keeping of one rank: what it owns, what has been picked."""

    divides_samples = False

    def __init__(
        self, num_candidates: int, own: Tensor, weights: StepSizeRule, replacement: bool
    ) -> None:
        if num_candidates >= MAX_CANDIDATES:
            raise InputError(f"neurons: found {num_candidates}, accepted below {MAX_CANDIDATES}")
        self.num_candidates = num_candidates
        self.own = own.to("cpu", torch.int64)
        self.weights = weights
        self.replacement = replacement
        self.position = 0
        self._excluded = torch.zeros(len(own), dtype=torch.bool)
        self._first_step: dict[int, int] = {}

    def join(self, communicator: Communicator) -> None:
        """Own candidates take nothing of other ranks."""

    @property
    def everything(self) -> bool:
        """Whether this rank owns all candidates."""
        return len(self.own) == self.num_candidates

    def place(self, pick: int) -> int | None:
        """Position of ``pick`` among the own candidates, or None."""
        if self.everything:
            return pick
        place = int(torch.searchsorted(self.own, pick))
        return place if place < len(self.own) and int(self.own[place]) == pick else None

    def is_first(self, pick: int, k: int) -> bool:
        """Whether step ``k`` is the first with this pick (also when it is replayed)."""
        return self._first_step.get(pick, k) == k

    def exclude(self, scores: Tensor) -> Tensor:
        """``scores`` on the CPU, +inf where a candidate may not be picked again."""
        scores = scores.cpu()
        return scores if self.replacement else scores.masked_fill(self._excluded, torch.inf)

    def advance(self, pick: int) -> None:
        """Count a pick."""
        self.position += 1
        self._first_step.setdefault(pick, self.position)
        if not self.replacement and (place := self.place(pick)) is not None:
            self._excluded[place] = True
