"""What a search is made of: its loss, what counts as a tie, and what its ranks say each other."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from gfs_dist.selection.step_sizes import StepSizeRule

ROUNDING = 1e-12


class Communicator(Protocol):
    """Collective operations of a search, which every rank calls in the same order.

    ``gfs_dist.runtime`` implements them by a process group and by the graph of Algorithm 2.
    """

    rank: int
    num_ranks: int

    def minimum(self, values: Tensor) -> Tensor:
        """Element-wise minimum over ranks of a 1-d float64 or int64 tensor, without NaN.

        The same bits come back on every rank. The argument may be overwritten.
        """
        ...

    def share(self, tensor: Tensor, owner: int) -> Tensor:
        """The ``tensor`` of rank ``owner``, on every rank.

        Other ranks pass a tensor of the same shape, dtype and device, whose values are ignored
        and may be overwritten.
        """
        ...


class SingleRank:
    """The communicator of a search by one rank."""

    rank = 0
    num_ranks = 1

    def minimum(self, values: Tensor) -> Tensor:
        return values

    def share(self, tensor: Tensor, owner: int) -> Tensor:
        assert owner == 0
        return tensor


def tie_tolerance(objective: Objective, minimum: float) -> float:
    """How far above the minimum a loss counts as tied with it: a bound on rounding.

        tolerance = gamma M,    gamma = 1e-12,    M = objective.magnitude(minimum)

    ``M`` bounds the sum of the absolute values of all that is added up to a score: the score then
    is off by at most ``gamma_N M``, ``gamma_N = N u / (1 - N u)``, ``u = 2**-53``, after ``N``
    roundings one after the other (Higham 2002, *Accuracy and Stability of Numerical Algorithms*,
    section 3.1). In the worst case 9,000 of them so reach ``gamma``. Independent errors grow only
    with their root, to ``lambda sqrt(N) u`` with a probability that rises fast with ``lambda``
    (Higham and Mary 2019, *A New Approach to Probabilistic Rounding Error Analysis*): ``gamma``
    then allows a million roundings at ``lambda = 9``.

    ``M`` measures the deviations from the target, not the target: an offset of a million changes
    neither a pick nor a tie.
    """
    return ROUNDING * objective.magnitude(minimum)


class Objective(Protocol):
    """One loss, built by one rank for the candidates it owns; holds the current output ``u``.

    Attributes:
        own: global indices of the candidates this rank owns, sorted, int64 (num_own,).
        num_candidates: candidates of all ranks together.
        weights: the rule that gives a pick its step size.
        position: picks added so far.
        divides_samples: whether ranks divide the samples, not the candidates. Then each owns all
            candidates, and ``score`` and ``scores`` are collective: all ranks call them at once.
        only_new: set by the search: no candidate may be picked that was picked before.
    """

    own: Tensor
    num_candidates: int
    weights: StepSizeRule
    position: int
    divides_samples: bool
    only_new: bool

    def join(self, communicator: Communicator) -> None:
        """Begin a search by the ranks of ``communicator``; called before any other method."""
        ...

    def magnitude(self, loss: float) -> float:
        """Size of the terms whose rounding enters a score near ``loss``; see
        :func:`tie_tolerance`. The same on every rank.
        """
        ...

    def scores(self) -> Tensor:
        """Loss after adding each own candidate as the next pick: float64 (num_own,).

        +inf for candidates that may not be picked. An objective that skips candidates gives
        them a lower bound that lies above its own best score by more than the tie tolerance.
        """
        ...

    def score(self, pick: int) -> float:
        """Exact loss after adding one own candidate (global index) as the next pick."""
        ...

    def step_size(self, pick: int) -> float:
        """Step size with which own candidate ``pick`` reaches its score; call after scores."""
        ...

    def column(self, pick: int, k: int) -> Tensor | None:
        """The tensor that every rank needs of pick number ``k`` (counted from 1), or None.

        The owner's is filled, the others' is a buffer that receives it. Whether one is sent
        depends on the path alone, so that all ranks agree.
        """
        ...

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        """Make ``pick`` the next one: ``u <- (1 - step_size) u + step_size phi``, at ``loss``."""
        ...
