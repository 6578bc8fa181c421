"""Lemma 1 of the paper, with its constants measured: a bound beside every path of a squared loss.

All losses here are means over samples, ``||u - y||^2 / (2 m)``, and D^2 is divided by m too, so
that the bound is on the scale of the reports' losses (the paper sums over samples).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gfs_dist.theory.arguments import (
    Tile,
    as_tiles,
    at_least,
    finite_target,
    refuse_not_finite,
    whole_numbers,
)

MEMORY_BYTES = 256 * 2**20
MAX_PRODUCTS = 5e10
LARGEST_TILE = 512


def lemma1_bound(
    k: ArrayLike, first_loss: float, diameter_squared: float, limit_loss: float
) -> NDArray[np.float64]:
    """Upper bound of the loss after ``k`` picks (equation 12).

        L[u_k] <= L[u_1] / k  +  log(k) / (2 k) D^2  +  (k - 1) / k  L_N

    Holds for squared loss, picks with replacement, and weights 1/k or by line search.

    Args:
        k: number of picks, at least 1; one number or an array of any shape.
        first_loss: L[u_1], the loss after the first pick.
        diameter_squared: D^2, the largest squared distance between two contributions divided by
            the number of samples. A larger number gives a weaker bound that is still true.
        limit_loss: L_N, the loss of the dense network; or of any other weighted average of its
            neurons, at best the least (:func:`gfs_dist.theory.hull_minimum`): the paper states
            the lemma for L_N, its proof holds for every point of the hull.

    Returns:
        float64 of the shape of ``k``, in the units of the losses.

    Raises:
        InputError: k holds something other than whole numbers from 1, or a constant is negative,
            NaN or infinite.

    Source: PAPER Lemma 1 (arXiv:2108.00259).
    """
    steps = whole_numbers("k", k, least=1)
    first = at_least("first_loss", first_loss, 0.0)
    diameter = at_least("diameter_squared", diameter_squared, 0.0)
    limit = at_least("limit_loss", limit_loss, 0.0)
    bound: NDArray[np.float64] = (
        first + 0.5 * np.log(steps) * diameter + (steps - 1) * limit
    ) / steps
    return bound


def lemma1_bound_by_diameter(
    k: ArrayLike, diameter_squared: float, limit_loss: float
) -> NDArray[np.float64]:
    """Lemma 1 without the first pick's loss: ``L[u_k] <= L_N + (1/2 + log k) / (2 k) D^2``.

    The best neuron is no worse than a neuron drawn with the average's weights, whose expected
    loss is that of the average plus half its variance, and that is at most D^2/2:
    ``L[u_1] <= L_N + D^2/4``. With D^2 at initialisation or from :func:`diameter_by_weights`
    this needs no search: it is Theorem 1 with its constants, ``C = D^2/2`` before ``log k / k``.

    Arguments, result and errors: as for :func:`lemma1_bound`.

    Source: arXiv 2108.00259, Theorem 1, which gives the order alone.
    """
    diameter = at_least("diameter_squared", diameter_squared, 0.0)
    return lemma1_bound(k, limit_loss + diameter / 4, diameter, limit_loss)


def diameter_by_weights(output_weights: ArrayLike, largest_activation: float = 1.0) -> float:
    """An upper bound of D^2 from the output weights alone, without data: ``4 s^2 max_i b_i^2``.

    Each contribution ``b_i act(a_i . x)`` is at most ``s |b_i|`` on every sample, so D^2 per
    sample is at most ``(2 s max_i |b_i|)^2``. This is the chain of Lemma 3, with the weights as
    they are instead of the paper's constant for how far training moves them.

    Args:
        output_weights: the ``b_i``.
        largest_activation: s, what the activation stays below: 1 for tanh and sigmoid; ReLU has
            none.

    Raises:
        InputError: a weight is not finite, or s is negative.

    Source: arXiv 2108.00259, Lemma 3 and equations 16 and 17.
    """
    largest = at_least("largest_activation", largest_activation, 0.0)
    weights = np.abs(np.asarray(output_weights, dtype=np.float64))
    return (2 * largest * at_least("output_weights", weights.max(initial=0.0), 0.0)) ** 2


def why_no_bound(objective: str, replacement: bool = True) -> str:
    """Why Lemma 1 says nothing about a search; empty where it holds.

    Args:
        objective: name of the objective.
        replacement: whether a neuron may be picked again.
    """
    if objective == "least_squares":
        return "Lemma 1 is proved for means of picks; it does not cover weights that are refitted"
    if objective != "squared":
        return f"Lemma 1 is proved for squared loss; it does not cover objective={objective}"
    if not replacement:
        return "Lemma 1 is proved for picks with replacement; it does not cover replacement=false"
    return ""


@dataclass(frozen=True)
class Lemma1Constants:
    """The constants of Lemma 1 for one network on one dataset, per sample.

    Attributes:
        first_loss: smallest loss of a single neuron, L[u_1].
        diameter_squared: D^2 / m, or an upper bound of it.
        dense_loss: loss of the average of all neurons, L_N.
        exact: whether ``diameter_squared`` is the diameter itself; if not, it is an upper bound.
    """

    first_loss: float
    diameter_squared: float
    dense_loss: float
    exact: bool

    def bound(self, num_steps: int) -> list[float]:
        """The bound after 1, 2, ..., ``num_steps`` picks."""
        steps = np.arange(1, num_steps + 1)
        constants = self.first_loss, self.diameter_squared, self.dense_loss
        found: list[float] = lemma1_bound(steps, *constants).tolist()
        return found

    def row(self, num_steps: int) -> dict[str, Any]:
        """The ``theory`` entry of a report's result, for a path of ``num_steps`` picks."""
        return {"bound": self.bound(num_steps), **asdict(self)}


def lemma1_constants(
    contributions: Tensor | NDArray[Any] | Tile,
    target: Tensor | NDArray[Any],
    *,
    num_neurons: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    max_products: float = MAX_PRODUCTS,
) -> Lemma1Constants:
    """Measure the constants of Lemma 1 in float64.

    One pass over all contributions gives both losses and the distances from a centre; the
    diameter is then searched among the neurons farthest out (:func:`_diameter_squared`). The search
    is exact unless it would cost more than ``max_products`` multiply-adds; then the result holds
    an upper bound, at most 4 times the largest squared distance from the centre, and says so.

    Args:
        contributions: (samples, neurons) or (samples, neurons, outputs); or a function that
            gives the contributions of the neurons in an int64 tensor as (len(neurons), samples)
            (as ``TwoLayer.contributions`` does), for networks too large to hold at once.
        target: (samples,) or (samples, outputs).
        num_neurons: how many neurons there are, if ``contributions`` is a function.
        memory_bytes: memory for tiles of contributions (at least a tile of one neuron is held).
        max_products: multiply-adds allowed for the search of the farthest pair; the default is
            a few seconds of one core, and enough for all pairs of 5,000 neurons x 4,000 samples.

    Raises:
        ShapeError: contributions do not fit the target, or are empty.
        NonFiniteError: NaN or infinity; names neuron and sample.
    """
    goal = finite_target(target)
    tile, n = as_tiles(contributions, goal, num_neurons)
    m, flat = goal.shape[0], goal.reshape(-1)
    tile_size = max(1, min(LARGEST_TILE, n, memory_bytes // (6 * 8 * flat.numel())))

    # Any centre is allowed; the mean of neurons spread over the network is near the middle.
    spread = torch.linspace(0, n - 1, tile_size, dtype=torch.float64).to(torch.int64)
    centre = tile(spread).mean(0)
    total, first, radii = torch.zeros_like(flat), math.inf, []
    for neurons in torch.arange(n).tensor_split(list(range(tile_size, n, tile_size))):
        rows = tile(neurons)
        refuse_not_finite(rows, neurons, m)
        total += rows.sum(0)
        first = min(first, float(((rows - flat) ** 2).sum(1).min()))
        radii.append(((rows - centre) ** 2).sum(1).sqrt())

    widest, exact = _diameter_squared(
        tile, centre, torch.cat(radii), tile_size=tile_size, max_products=max_products
    )
    dense = float(((total / n - flat) ** 2).sum())
    return Lemma1Constants(first / (2 * m), widest / m, dense / (2 * m), exact)


def _diameter_squared(
    tile: Tile, centre: Tensor, radii: Tensor, *, tile_size: int, max_products: float
) -> tuple[float, bool]:
    """Largest squared distance between two contributions, or an upper bound of it.

    By Lemma 2 the diameter of the convex hull is the largest distance between two contributions.
    All pairs cost n^2 m / 2 multiply-adds; but two contributions with distances r_i and r_j from
    any common centre are at most r_i + r_j apart. So pairs of tiles are visited by falling bound,
    and the search ends as soon as the next bound is not above the best distance found: exact, and
    mostly after few tiles. Where the allowed work runs out first, that next bound is an upper bound
    of D.

    Args:
        tile: gives the contributions of the neurons named by an int64 tensor: float64
            (len(neurons), numbers).
        centre: any common point, (numbers,); the nearer to the middle, the less work.
        radii: distance of each contribution from ``centre``, float64 (num_neurons,).
        tile_size: neurons a tile; two tiles and their centred copies are held at once.
        max_products: multiply-adds that the search for the pair may cost.

    Returns:
        The squared distance (summed over samples), and whether it is exact; if not, it is an
        upper bound.
    """
    radii, order = radii.sort(descending=True, stable=True)
    blocks = order.tensor_split(list(range(tile_size, len(order), tile_size)))
    starts = radii[::tile_size]
    first, second = torch.triu_indices(len(blocks), len(blocks))
    bounds, by_bound = ((starts[first] + starts[second]) ** 2).sort(descending=True, stable=True)
    pairs = torch.stack([first, second], dim=1)[by_bound]

    @lru_cache(maxsize=2)
    def centred(block: int) -> Tensor:
        return tile(blocks[block]) - centre

    best, spent = 0.0, 0.0
    for bound, (a, b) in zip(bounds.tolist(), pairs.tolist(), strict=True):
        if bound <= best:
            break
        spent += len(blocks[a]) * len(blocks[b]) * centre.numel()
        if spent > max_products:
            return bound, False
        one, other = centred(a), centred(b)
        # Found through inner products; the distance is then formed without their cancellation.
        squared = (one**2).sum(1)[:, None] + (other**2).sum(1)[None, :] - 2.0 * (one @ other.T)
        i, j = divmod(int(squared.argmax()), len(other))
        best = max(best, float(((one[i] - other[j]) ** 2).sum()))
    return best, True


def sparsity_for_tolerance(
    tolerance: float, diameter_squared: float, first_excess: float = 0.0
) -> int:
    """Picks after which Lemma 1 promises a loss of at most dense loss + ``tolerance``.

    The smallest k from which on ``(first_excess + log(k)/2 D^2) / k <= tolerance``. For
    ``first_excess = 0`` and C = D^2/2 this is the paper's ``k = -(C/e) W_{-1}(-e/C)`` rounded up,
    with e the tolerance and W_{-1} the lower branch of the Lambert function: O(1/e log 1/e)
    neurons. Measured paths need far fewer.

    Args:
        tolerance: accepted loss above the dense loss, larger than 0.
        diameter_squared: D^2 per sample.
        first_excess: L[u_1] - L_N, at least 0; unmeasured, D^2/4 is enough
            (:func:`lemma1_bound_by_diameter`).

    Raises:
        InputError: an argument is out of its range.

    Source: PAPER Theorem 1 and its corollary.
    """
    accepted = at_least("tolerance", tolerance, 0.0, above=True)
    constant = at_least("diameter_squared", diameter_squared, 0.0) / 2
    excess = at_least("first_excess", first_excess, 0.0)

    def promised(k: int) -> bool:
        return excess + constant * math.log(k) <= accepted * k

    # log(k)/k rises up to e and falls after it; adding excess/k only moves the peak to the left.
    low, high = 0, 3
    while not promised(high):
        low, high = high, 2 * high
    if low == 0:
        return next(k for k in (1, 2, 3) if all(promised(j) for j in range(k, 4)))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if promised(middle) else (middle, high)
    return high
