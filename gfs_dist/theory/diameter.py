"""Diameter of the neurons' contributions: the constant D of Lemma 1.

By Lemma 2 the diameter of the convex hull is the largest distance between two contributions. All
pairs cost n^2 m / 2 multiply-adds; but two contributions with distances r_i and r_j from any
common centre are at most r_i + r_j apart. So pairs of tiles are visited by falling bound, and the
search ends as soon as the next bound is not above the best distance found: exact, and mostly after
few tiles. Where the allowed work runs out first, that next bound is an upper bound of D.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

Tile = Callable[[Tensor], Tensor]


def diameter_squared(
    tile: Tile, centre: Tensor, radii: Tensor, *, tile_size: int, max_products: float
) -> tuple[float, bool]:
    """Largest squared distance between two contributions, or an upper bound of it.

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
        best = max(best, _largest(centred(a), centred(b)))
    return best, True


def _largest(a: Tensor, b: Tensor) -> float:
    """Largest squared distance between a row of ``a`` and a row of ``b``.

    The pair is found through inner products; its distance is then formed without their
    cancellation.
    """
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * (a @ b.T)
    i, j = divmod(int(squared.argmax()), len(b))
    return float(((a[i] - b[j]) ** 2).sum())
