"""How a search is divided among ranks: by its candidates, or by what all compute together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.errors import InputError
from gfs_dist.runtime.spec import AnyProblem, SharedProblem
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.partition import Partition, Portion


def divide(problem: AnyProblem, num_ranks: int, partition: Partition | None = None) -> Partition:
    """Who owns which candidates: contiguous parts, unless the caller has others in mind.

    Of a shared problem's, which are everybody's, nothing but the number of ranks counts.

    Raises:
        InputError: a partition of other candidates, or of a shared problem's.
    """
    candidates = problem.num_candidates
    if partition is None:
        return Partition.contiguous(candidates, num_ranks)
    if isinstance(problem, SharedProblem):
        raise InputError(
            f"partition: the losses of {type(problem).__name__} are computed by all ranks "
            "together, accepted None"
        )
    if partition.num_candidates != candidates:
        raise InputError(
            f"partition: found {partition.num_candidates} candidates, accepted {candidates}"
        )
    return partition


@dataclass(frozen=True, eq=False)
class Holding:
    """What one rank has of a search.

    Attributes:
        own: its candidates, of a problem that is divided so.
        portion: of a shared problem, whose candidates are everybody's.
    """

    own: Tensor
    portion: Portion

    @classmethod
    def of(cls, partition: Partition, rank: int) -> Holding:
        """One rank of a division."""
        return cls(partition.parts[rank], Portion(rank, partition.num_ranks))

    def objective(
        self, problem: AnyProblem, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        """As this rank builds it."""
        if isinstance(problem, SharedProblem):
            return problem.shared_objective(self.portion, device, tick)
        return problem.objective(self.own, device, tick)

    def serves(self, objective: Objective, other: Holding) -> bool:
        """Whether ``objective``, built for this, is also what ``other`` is to have."""
        if objective.is_shared:
            return self.portion == other.portion
        return torch.equal(self.own, other.own)
