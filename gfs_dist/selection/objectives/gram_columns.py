"""Three exact ways to obtain a Gram column of deviations, and the rule that chooses one.

m numbers of a contribution, n candidates, P ranks, s distinct picks; q the cost of computing a
number of a contribution again (1 if it is read):

    method      set-up        memory              a step
    panel       m n n/P       n n/P and a tile    n/P
    lazy        m n/P         (m + s) n/P         m n/P for a new pick, else n/P
    streaming   q m n/P       m + 3 n/P, a tile   q m n/P

All sums are float64, whatever the contributions are held in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gfs_dist.errors import InputError, NonFiniteError, ShapeError
from gfs_dist.selection.objectives.contributions import (
    CACHE_NUMBERS,
    TILE_NUMBERS,
    Contributions,
    Deviations,
    check_finite,
    chunks,
)
from gfs_dist.selection.stop import Stop

# Two cores, 10,000 x 1,000 in float64: 70 G multiply-adds a second in matrix products, 5.9 in
# matrix-vector products.
MATVEC = 12
BLOCK = 512


class Columns(Protocol):
    """Moments of the own candidates' deviations, divided by the number of samples; float64.

    Attributes:
        own: global indices, int64 (num_own,).
        diagonal: ``|psi_i|^2`` (num_own,).
        offset: 0; or the length of the subtracted target (root mean square over samples) where it
            is subtracted after multiplying, which costs digits.
    """

    num_candidates: int
    own: Tensor
    diagonal: Tensor
    offset: float

    def share(self, pick: int, place: int | None, first: bool) -> Tensor | None:
        """The pick's deviations for other ranks, a buffer for them, or None if none is needed."""
        ...

    def gram(self, pick: int, column: Tensor | None) -> Tensor:
        """``G_:j`` of the own candidates for pick j."""
        ...


class Panel:
    """All Gram columns are computed first.

    Attributes:
        matrix: them, (n, num_own).
    """

    offset = 0.0

    def __init__(self, source: Deviations, own: Tensor, tick: Callable[[], None]) -> None:
        """Every rank computes or reads every contribution once."""
        n, device, width = source.num_candidates, source.device, source.num_outputs
        self.num_candidates, self.own = n, own
        gram = torch.zeros(n, len(own), dtype=torch.float64, device=device)
        index = None if len(own) == n else own.to(device)
        for start, stop in chunks(source):
            tile = source.tile(None, start, stop)
            if index is None:
                _add_lower_triangle(gram, tile)
                squares = gram.diagonal()  # not finite where those of a tile are not
            else:
                gram.addmm_(tile, tile[index].T)
                squares = tile.square().sum(1)
            check_finite(tile, squares, None, start, width)
            tick()
        if index is None:
            _mirror(gram)
        self.matrix = gram.div_(source.num_samples)
        own_rows = torch.arange(n, device=device) if index is None else index
        self.diagonal = gram[own_rows, torch.arange(len(own), device=device)]

    def share(self, pick: int, place: int | None, first: bool) -> Tensor | None:
        return None

    def gram(self, pick: int, column: Tensor | None) -> Tensor:
        return self.matrix[pick]


class GivenMoments:
    """Gram columns from given moments: ``<psi_i, psi_j> = A_ij - p_i - p_j + e``.

    Args:
        gram: columns of ``A = phi'phi / m`` (n, num_own).
        correlation: ``p = phi'y / m`` (n,).
        energy: ``e = y'y / m``.
    """

    def __init__(self, gram: Tensor, correlation: Tensor, energy: float, own: Tensor) -> None:
        self.num_candidates, self.own, self.offset = len(gram), own, math.sqrt(energy)
        index = own.to(gram.device)
        self._gram, self._correlation = gram, correlation
        self._own_correlation = correlation[index] - energy
        diagonal = gram[index, torch.arange(len(own), device=gram.device)]
        self.diagonal = (diagonal - correlation[index] - self._own_correlation).clamp_(min=0.0)

    def share(self, pick: int, place: int | None, first: bool) -> Tensor | None:
        return None

    def gram(self, pick: int, column: Tensor | None) -> Tensor:
        return self._gram[pick] - self._own_correlation - self._correlation[pick]


def _add_lower_triangle(gram: Tensor, tile: Tensor) -> None:
    """``gram += tile tile'`` on and below the diagonal, by blocks: half the work."""
    for first in range(0, len(gram), BLOCK):
        rows = slice(first, first + BLOCK)
        upto = min(first + BLOCK, len(gram))
        gram[rows, :upto].addmm_(tile[rows], tile[:upto].T)


def _mirror(gram: Tensor) -> None:
    """Copy what is below the diagonal to above it, block by block."""
    for first in range(0, len(gram), BLOCK):
        rows, upto = slice(first, first + BLOCK), min(first + BLOCK, len(gram))
        gram[:first, rows] = gram[rows, :first].T
        square = gram[first:upto, first:upto]
        square.copy_(square.tril() + square.tril(-1).T)


def check_moments(gram: Tensor, correlation: Tensor, energy: float, rounding: float) -> None:
    """Refuse moments that cannot be ``A'A / m``, ``A'y / m`` and ``y'y / m``.

    Args:
        rounding: of a moment; a thousand times as much is accepted.

    Raises:
        ShapeError: gram is not square and symmetric, or correlation does not fit it.
        NonFiniteError: an entry is NaN or infinite.
        InputError: ``p_i^2 <= G_ii e`` (Cauchy-Schwarz) does not hold; names the neuron.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or len(gram) == 0:
        raise ShapeError(f"gram: found shape {tuple(gram.shape)}, accepted (neurons, neurons)")
    if correlation.shape != gram.shape[:1]:
        raise ShapeError(
            f"correlation: found shape {tuple(correlation.shape)}, accepted ({len(gram)},) "
            "to fit gram"
        )
    for name, values in (("gram", gram), ("correlation", correlation)):
        bad = (~torch.isfinite(values)).nonzero()
        if len(bad):
            place = bad[0].tolist()
            raise NonFiniteError(f"{name}: entry {place} is not finite, accepted finite numbers")
    slack = 1e3 * rounding
    if not torch.allclose(gram, gram.T, rtol=slack, atol=rounding * float(gram.abs().max())):
        raise ShapeError("gram: found a matrix that is not symmetric, accepted A'A / m")
    diagonal = gram.diagonal()
    bad = ((diagonal < 0) | (correlation.square() > diagonal * energy * (1 + slack))).nonzero()
    if len(bad):
        i = int(bad[0])
        raise InputError(
            f"correlation: neuron {i} has {float(correlation[i])} with gram {float(diagonal[i])} "
            f"and energy {energy}; accepted are moments of the same samples, all divided by m"
        )


class Streaming:
    """Nothing is held: a column is computed from tiles read or computed again at every step."""

    offset = 0.0

    def __init__(self, source: Deviations, own: Tensor, tick: Callable[[], None]) -> None:
        self.num_candidates, self.own, self._source = source.num_candidates, own, source
        self.diagonal = self._zeros()
        for start, stop in chunks(source):
            tile = self._tile(start, stop)
            squares = tile.square().sum(1)
            check_finite(tile, squares, own, start, source.num_outputs)
            self.diagonal += squares
            tick()
        self.diagonal /= source.num_samples

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self.own), dtype=torch.float64, device=self._source.device)

    def _tile(self, start: int, stop: int) -> Tensor:
        owns_all = len(self.own) == self.num_candidates
        return self._source.tile(None if owns_all else self.own, start, stop)

    def _deviations(self, pick: int, place: int) -> Tensor:
        return self._source.tile(torch.tensor([pick]), 0, self._source.num_samples)

    def share(self, pick: int, place: int | None, first: bool) -> Tensor | None:
        if place is None:
            length = self._source.num_samples * self._source.num_outputs
            return torch.empty(length, dtype=torch.float64, device=self._source.device)
        return self._deviations(pick, place)[0].contiguous()

    def gram(self, pick: int, column: Tensor | None) -> Tensor:
        """``<psi_i, column> / m`` of all own candidates."""
        assert column is not None, "a pick travels with its deviations"
        sums, width = self._zeros(), self._source.num_outputs
        for start, stop in chunks(self._source, CACHE_NUMBERS):
            sums.addmv_(self._tile(start, stop), column[start * width : stop * width])
        return sums.div_(self._source.num_samples)


class Lazy(Streaming):
    """Own contributions are held; a column is computed once, when its candidate is first picked."""

    def __init__(self, source: Deviations, own: Tensor, tick: Callable[[], None]) -> None:
        self._held = source.hold(own, tick)
        self._known: dict[int, Tensor] = {}
        super().__init__(source, own, tick)

    def _tile(self, start: int, stop: int) -> Tensor:
        return self._held.tile(None, start, stop)

    def _deviations(self, pick: int, place: int) -> Tensor:
        return self._held.tile(torch.tensor([place]), 0, self._source.num_samples)

    def share(self, pick: int, place: int | None, first: bool) -> Tensor | None:
        return super().share(pick, place, first) if first else None

    def gram(self, pick: int, column: Tensor | None) -> Tensor:
        if pick not in self._known:
            self._known[pick] = super().gram(pick, column)
        return self._known[pick]


COLUMNS: dict[str, Callable[[Deviations, Tensor, Callable[[], None]], Columns]] = {
    "panel": Panel,
    "lazy": Lazy,
    "streaming": Streaming,
}
METHODS = tuple(COLUMNS)


def choose_method(
    source: Contributions, num_ranks: int, stop: Stop, memory_bytes: int, replacement: bool
) -> tuple[str, str]:
    """The method with the least work among those that fit, and the reason as a sentence.

    Work a rank in multiply-adds, where one of a matrix-vector product counts as ``MATVEC`` of a
    matrix product, because it waits for memory: panel ``m n n/P`` (half for one rank, by
    symmetry); lazy ``m n/P (s + 2) MATVEC`` with s the distinct picks to expect, all
    ``min(steps, n)`` without replacement and half of them with it, or ``distinct`` if that is
    less; streaming ``q m n/P (steps + 2) MATVEC``. Streaming always counts as fitting.

    Args:
        memory_bytes: what one rank may use.
    """
    n, m = source.num_candidates, source.num_samples * source.num_outputs
    own, most = -(-n // num_ranks), stop.most_distinct(n)
    expected = min(most, min(stop.most_steps, n) / 2) if replacement else most
    work = {
        "panel": m * n * own / (2 if num_ranks == 1 else 1),
        "lazy": m * own * (expected + 2) * MATVEC,
        "streaming": source.remake_cost * m * own * (stop.most_steps + 2) * MATVEC,
    }
    memory = memory_needed(source, num_ranks, stop)
    fitting = [name for name in METHODS if memory[name] <= memory_bytes] or ["streaming"]
    best = min(fitting, key=work.__getitem__)
    left_out = [name for name in METHODS if name not in fitting]
    reason = f"least work ({work[best]:.2g} multiply-adds a rank) of the methods that fit"
    if left_out:
        reason += f"; {' and '.join(left_out)} would not"
    return best, reason


def memory_needed(source: Contributions, num_ranks: int, stop: Stop) -> dict[str, int]:
    """Bytes a rank needs by method, the tiles it works on included.

    Panel ``8 n n/P``; lazy ``b m n/P + 8 d n/P`` (b: bytes a held number; d: distinct picks at
    most); elimination ``16 n n/P``; screened ``b m n/P``; streaming ``8 m + 24 n/P``; exhaustive
    ``8 m``.
    """
    n, m = source.num_candidates, source.num_samples * source.num_outputs
    own = -(-n // num_ranks)
    held = source.dtype.itemsize * m * own
    tile = 8 * 2 * max(TILE_NUMBERS, 64 * n * source.num_outputs)
    return {
        "panel": 8 * n * own + tile,
        "elimination": 2 * 8 * n * own + tile,
        "lazy": held + 8 * stop.most_distinct(n) * own + tile,
        "streaming": 8 * m + 24 * own + tile,
        "screened": held + tile,
        "exhaustive": 8 * m + tile,
    }
