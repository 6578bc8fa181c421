"""Greedy forward selection, for one rank (Algorithm 1) or many (Algorithm 2 of the paper).

    i_k = argmin_i L[(1 - g) u_{k-1} + g phi_i]     (ties: smallest i)
    u_k = (1 - g_k) u_{k-1} + g_k phi_{i_k}         (uniform: g = 1/k, u_k the mean of picks)

Every rank runs this same loop. A step asks three questions: how good is each of this rank's
candidates, which candidate of all ranks is the pick, and what does the pick change here. The second
takes two reductions of 8 bytes: the smallest loss, then the lowest index that counts as tied with
it; a third if the loss of that index is not the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from gfs_dist.errors import InputError, NonFiniteError
from gfs_dist.selection.objective import Communicator, Objective, SingleRank, tie_tolerance
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.step_sizes import NO_DECISION, decode, encode
from gfs_dist.selection.stop import Stop

REPLAY = 1e-9
GAP_BATCH = 32


def greedy(
    objective: Objective,
    stop: Stop,
    communicator: Communicator | None = None,
    partition: Partition | None = None,
    *,
    path: GreedyPath | None = None,
    on_step: Callable[[GreedyPath], None] | None = None,
) -> GreedyPath:
    """Add the candidate that lowers the loss most, again and again (equations 9-11).

    Args:
        objective: the loss, for this rank's share of candidates or samples.
        stop: when to end.
        communicator: joins the ranks; None for a search by one rank.
        partition: candidates of each rank; None if this rank owns all.
        path: picks already made (recovery): replayed, their losses compared, then continued.
        on_step: called after every new pick, on every rank.

    Returns:
        The path, the same on every rank whatever the partition.

    Raises:
        InputError: a recorded loss is not what replaying its pick gives.
        NonFiniteError: a score is NaN.
    """
    communicator = communicator or SingleRank()
    partition = partition or Partition([torch.arange(objective.num_candidates)])
    path = GreedyPath(objective.num_candidates) if path is None else path
    objective.join(communicator)
    objective.only_new = False  # what is replayed was allowed when it was picked
    gaps = _replay(objective, communicator, partition, path)
    least, decision = torch.empty(1, dtype=torch.float64), torch.empty(1, dtype=torch.int64)

    while not (reason := stop.after(path)):
        # How good is each of this rank's candidates?
        k = len(path) + 1
        objective.only_new = stop.only_new(path)
        scores = objective.scores()
        own_best = float(scores.min()) if len(scores) else math.inf
        if math.isnan(own_best):
            raise NonFiniteError(f"rank {communicator.rank}, step {k}: a score is NaN")

        # Which candidate of all ranks is the pick?
        best = float(communicator.minimum(least.fill_(own_best)))
        if math.isinf(best):
            reason = "exhausted"
            break
        tolerance = tie_tolerance(objective, best)
        if k > 1 and objective.weights.never_rises and path.loss[-1] - best <= tolerance:
            reason = "converged"
            break
        tied = scores <= best + tolerance
        loss, proposed = math.inf, NO_DECISION
        if tied.any():
            lowest = int(tied.to(torch.uint8).argmax())
            loss, pick = float(scores[lowest]), int(objective.own[lowest])
            proposed = encode(pick, objective.step_size(pick), loss > best)
        decided = int(communicator.minimum(decision.fill_(proposed)))
        pick, code, above = decode(decided)
        if reason := stop.before(path, pick):
            break
        if above:
            least.fill_(loss if proposed == decided else math.inf)
        loss = float(communicator.minimum(least)) if above else best

        # What does the pick change here?
        step_size = objective.weights.decode(k, code)
        others = scores.masked_fill(tied, torch.inf)
        gaps.append(float(others.min()) - best if len(others) else math.inf)
        _add(objective, communicator, partition, pick, step_size, loss)
        path.append(pick, loss, step_size)
        if k % GAP_BATCH == 0:
            _agree_on_gaps(communicator, path, gaps)
        if on_step is not None:
            on_step(path)

    _agree_on_gaps(communicator, path, gaps)
    path.stop_reason = reason
    return path


def _add(
    objective: Objective,
    communicator: Communicator,
    partition: Partition,
    pick: int,
    step_size: float,
    loss: float,
    position: int | None = None,
) -> None:
    """Send every rank the pick's column if it needs one; add the pick where it is not yet added."""
    position = objective.position if position is None else position
    column = objective.column(pick, position + 1)
    if column is not None and communicator.num_ranks > 1:
        column = communicator.share(column, partition.owner(pick))
    if objective.position == position:
        objective.add(pick, column, step_size, loss)


def _replay(
    objective: Objective, communicator: Communicator, partition: Partition, path: GreedyPath
) -> list[float]:
    """Bring every rank to the end of ``path``; a rank that is ahead only sends columns."""
    behind, checked = int(communicator.minimum(torch.tensor([objective.position]))), 0
    if objective.divides_samples:
        # A loss takes all ranks to recompute; those of picks that any rank has are verified.
        checked = -int(communicator.minimum(torch.tensor([-objective.position])))
    for position in range(behind, len(path)):
        pick, loss = path.picks[position], path.loss[position]
        mine = partition.owner(pick) == communicator.rank or objective.divides_samples
        asked = mine and position >= checked and objective.position == position
        if asked and not abs(
            (found := objective.score(pick)) - loss
        ) <= REPLAY * objective.magnitude(loss):
            raise InputError(
                f"path: the recorded loss of pick {position + 1} (neuron {pick}) is {loss!r}, "
                f"replaying it gives {found!r}; the data or the checkpoint has changed"
            )
        _add(objective, communicator, partition, pick, path.step_sizes[position], loss, position)
    return [-math.inf] * (len(path) % GAP_BATCH)


def _agree_on_gaps(communicator: Communicator, path: GreedyPath, gaps: list[float]) -> None:
    """Reduce the gaps of the last steps in one message, and clear the own ones."""
    if not gaps:
        return
    first = len(path) - len(gaps)
    agreed = communicator.minimum(torch.tensor(gaps, dtype=torch.float64)).tolist()
    for k, gap in enumerate(agreed, start=first):
        path.gap[k] = gap if math.isfinite(gap) else path.gap[k]
    gaps.clear()
