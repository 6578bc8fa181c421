"""From names (loss, method, weights) to the objective of one rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.errors import InputError, ShapeError
from gfs_dist.selection.objective import ROUNDING, Objective
from gfs_dist.selection.objectives.contributions import (
    TILE_NUMBERS,
    Contributions,
    Deviations,
    check_target,
    chunks,
)
from gfs_dist.selection.objectives.exhaustive import Exhaustive
from gfs_dist.selection.objectives.given_moments import GivenMoments, check_moments
from gfs_dist.selection.objectives.gram_columns import GramColumns, most_at_once, most_columns
from gfs_dist.selection.objectives.losses import Loss, make_loss
from gfs_dist.selection.objectives.own_deviations import ADDED, PICKS, OwnDeviations
from gfs_dist.selection.objectives.refit import ExhaustiveRefit, by_elimination, from_moments
from gfs_dist.selection.objectives.screened import Screened
from gfs_dist.selection.objectives.squared import SPAN, Squared
from gfs_dist.selection.step_sizes import WEIGHTS
from gfs_dist.selection.stop import Stop

LOSSES = ("squared", "bce", "cross_entropy", "least_squares")
METHODS = ("panel", "lazy", "streaming")
"""Of the squared loss: Gram columns on demand, of contributions that are held (``lazy``, and
``panel``, another word for it) or read or computed again (``streaming``)."""


@dataclass(frozen=True)
class Recipe:
    """Loss, method and rules of a search, by name; the same on every rank.

    Attributes:
        loss: one of ``LOSSES``. ``least_squares`` is the squared loss of weights that are fitted
            again after each pick: ``uniform`` by convention, and without replacement.
        method: squared: ``METHODS``, ``exhaustive``; least_squares: ``elimination``,
            ``exhaustive``; others: ``screened``, ``exhaustive``. ``auto`` is
            replaced by :func:`settle` before ranks start, since all must use the same.
        weights: ``uniform`` or ``line_search``.
        replacement: whether a candidate may be picked again.
    """

    loss: str = "squared"
    method: str = "auto"
    weights: str = "uniform"
    replacement: bool = True

    def __post_init__(self) -> None:
        own = {"squared": METHODS, "least_squares": ("elimination",)}.get(self.loss, ("screened",))
        for name, found, accepted in (
            ("loss", self.loss, LOSSES),
            ("weights", self.weights, tuple(WEIGHTS)),
            ("method", self.method, ("auto", *own, "exhaustive")),
        ):
            if found not in accepted:
                raise InputError(f"{name}: found {found!r}, accepted {', '.join(accepted)}")
        for name, given, only in (
            ("weights", self.weights, "uniform"),
            ("replacement", self.replacement, False),
        ):
            if self.loss == "least_squares" and given != only:
                raise InputError(
                    f"{name}: found {given!r}, accepted {only!r} with least_squares, which fits "
                    "the weights of all picks"
                )


def settle(
    recipe: Recipe, source: Contributions, num_ranks: int, stop: Stop, memory_bytes: int
) -> tuple[Recipe, str]:
    """The recipe with ``auto`` replaced by a method, and why."""
    method, reason = recipe.method, "as asked"
    memory = memory_needed(source, num_ranks, stop)
    if method == "auto" and recipe.loss == "squared":
        method, reason = "lazy", "Gram columns on demand"
        if memory[method] > memory_bytes:
            method, reason = "streaming", f"to hold contributions would take {_mib(memory[method])}"
    elif method == "auto" and recipe.loss == "least_squares":
        method, reason = "elimination", "orthogonal least squares on the Gram matrix"
    elif method == "auto":
        method, reason = "screened", "exact, most candidates are ruled out by bounds"
    needed = memory[method]
    reason = f"{method}: {reason}; memory a rank {_mib(needed)} of {_mib(memory_bytes)}"
    if needed > memory_bytes:
        reason += ": it may not fit, more workers or precision=float32 need less"
    return Recipe(recipe.loss, method, recipe.weights, recipe.replacement), reason


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"


def memory_needed(source: Contributions, num_ranks: int, stop: Stop) -> dict[str, int]:
    """Bytes a rank needs by method, the tiles it works on included.

    Gram columns ``8 c n/P``, ``c`` as many as there is room for (``most_columns``), or 16 for each
    distinct pick if that is less; a pass also takes three times as much as the columns that it
    makes (a ninth of all, at least 16), and the first one 128 sums of squares for each candidate.
    Several ranks keep up to 256 columns of all candidates as well. ``lazy`` and ``panel`` hold
    ``b m n/P`` (b: bytes a number), unless one rank has them in memory already; ``screened`` does
    in any case. Elimination ``16 n n/P``; exhaustive ``8 m``.
    """
    n, m = source.num_candidates, source.num_samples * source.num_outputs
    own = -(-n // num_ranks)
    held = source.dtype.itemsize * m * own
    in_memory = num_ranks == source.remake_cost == source.num_outputs == 1
    tile = 8 * 2 * max(TILE_NUMBERS, 64 * n * source.num_outputs)

    def columns(hold: bool) -> int:
        kept = min(most_columns(source, hold), PICKS * (stop.most_distinct(n) + 1))
        made = most_at_once(source, hold, kept)
        whole = 8 * min(kept, SPAN) * n if num_ranks > 1 else 0
        return 8 * (kept + 3 * made + ADDED) * own + whole + tile

    return {
        "panel": columns(hold=True) + (0 if in_memory else held),
        "lazy": columns(hold=True) + (0 if in_memory else held),
        "streaming": columns(hold=False),
        "elimination": 2 * 8 * n * own + tile,
        "screened": held + tile,
        "exhaustive": 8 * m + tile,
    }


def make_objective(
    recipe: Recipe,
    source: Contributions,
    target: Tensor,
    own: Tensor,
    tick: Callable[[], None] = lambda: None,
) -> Objective:
    """The objective of a rank that owns ``own`` (int64, sorted).

    Args:
        recipe: a settled one.
        source: contributions of all candidates.
        target: (samples,) or (samples, outputs); class numbers (samples,) for cross_entropy.
        tick: called after every tile of the set-up, as a sign of progress.

    Raises:
        ShapeError, NonFiniteError, InputError: as the message says.
    """
    if recipe.loss == "least_squares":
        make = by_elimination if recipe.method == "elimination" else ExhaustiveRefit
        return make(source, check_target(target, source), own, tick)
    weights = WEIGHTS[recipe.weights]
    if recipe.loss == "squared" and recipe.method in METHODS:
        hold = recipe.method != "streaming"
        columns = GramColumns(OwnDeviations(source, check_target(target, source), own, hold, tick))
        return Squared(columns, weights, recipe.replacement)
    loss, deviations = _loss_and_deviations(recipe, source, target)
    kinds: dict[str, Callable[..., Objective]] = {"screened": Screened, "exhaustive": Exhaustive}
    assert recipe.method in kinds, f"method {recipe.method!r} is not settled"
    return kinds[recipe.method](deviations, loss, own, weights, recipe.replacement, tick)


def dense_loss(recipe: Recipe, source: Contributions, target: Tensor) -> float:
    """Loss of the mean of all contributions. Args and errors: as :func:`make_objective`."""
    loss, deviations = _loss_and_deviations(recipe, source, target)
    means = [deviations.tile(None, start, stop).mean(0) for start, stop in chunks(deviations)]
    return float(loss.values(torch.cat(means).unsqueeze(0)))


def _loss_and_deviations(
    recipe: Recipe, source: Contributions, target: Tensor
) -> tuple[Loss, Deviations]:
    if recipe.loss == "cross_entropy":
        if tuple(target.shape) != (source.num_samples,):
            raise ShapeError(
                f"target: found shape {tuple(target.shape)}, accepted ({source.num_samples},) "
                "class numbers"
            )
        flat = target.to(source.device, torch.float64)
    else:
        flat = check_target(target, source)
    name = "squared" if recipe.loss == "least_squares" else recipe.loss
    loss = make_loss(name, flat, source.num_samples, source.num_outputs)
    return loss, Deviations(source, loss.shift)


def moments_objective(
    recipe: Recipe,
    gram: Tensor,
    correlation: Tensor,
    energy: float,
    own: Tensor,
    *,
    rounding: float = ROUNDING,
) -> Objective:
    """The objective (``squared``, ``least_squares``) from moments of all candidates, per sample.

    Args:
        gram, correlation: (n, n) and (n,).
        rounding: of a moment, relative to its terms.

    Raises:
        ShapeError, NonFiniteError, InputError: they cannot be moments.
    """
    if not energy >= 0 or energy == torch.inf:
        raise InputError(f"energy: found {energy}, accepted a finite number of 0 or more")
    gram, correlation = gram.double(), correlation.double()
    check_moments(gram, correlation, energy, rounding)
    whole = len(own) == len(gram)
    if recipe.loss == "least_squares":
        index = own.to(gram.device)
        return from_moments(gram[index], correlation[index], energy, own, rounding)
    columns = gram if whole else gram[:, own.to(gram.device)]
    return panel_objective(recipe, columns, correlation, energy, own)


def panel_objective(
    recipe: Recipe, columns: Tensor, correlation: Tensor, energy: float, own: Tensor
) -> Objective:
    """The squared objective from a rank's own Gram columns.

    Args:
        columns: float64 (n, num_own).
        correlation: float64 (n,), of all candidates.
    """
    moments = GivenMoments(columns, correlation, energy, own)
    return Squared(moments, WEIGHTS[recipe.weights], recipe.replacement)
