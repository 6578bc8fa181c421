"""A rank's own deviations, and their products with any others: the same bits on any partition.

Deviations are contributions less the target, ``psi_i = phi_i - y`` (see ``contributions.py``). All
sums are float64, whatever contributions are held in, of products of one shape: so many picks, so
many samples, so many candidates, the rest filled with zeros. A processor adds up the terms of an
element in an order that depends on the shape of the product, not on the element's place in it; the
bits so depend neither on the partition or the number of threads nor on what else is multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gfs_dist.selection.objectives.contributions import Contributions

PICKS = 16
"""Of a product."""
ROWS = {"cpu": 512, "cuda": 4096}
"""Numbers of each candidate in a product."""
WIDEST, WIDTH_STEP = 240, 24
"""Candidates of a product at most, and what divides their number: kernels compute as many at once.
Powers of two, whose rows share lines of a cache, take a fifth longer."""
TILE_NUMBERS = {"cpu": 2**19, "cuda": 2**26}
"""Deviations that are made at once: on a processor, what its cache holds."""


class OwnDeviations:
    """Deviations of a rank's own candidates.

    Args:
        source: contributions of all candidates.
        target: float64 (samples * outputs,).
        own: candidates of this rank, sorted.
        hold: whether their contributions are held, in the dtype of the source. One rank does not
            copy those that are in memory.
        tick: called after every run of samples.
    """

    def __init__(
        self,
        source: Contributions,
        target: Tensor,
        own: Tensor,
        hold: bool,
        tick: Callable[[], None],
    ) -> None:
        self._source, self._target, self._own, self._tick = source, target, own, tick
        whole, device = len(own) == source.num_candidates, source.device
        self._held: Tensor | None = None
        self._is_read = hold and whole and source.remake_cost == 1
        if self._is_read:
            self._held = source.tile(None, 0, source.num_samples).T
        elif hold:
            self._held = torch.empty(len(target), len(own), dtype=source.dtype, device=device)
        rows = ROWS[device.type]
        self._run = max(1, rows // source.num_outputs)  # samples
        self._rows = max(rows, 1 << (source.num_outputs - 1).bit_length())
        products = -(-source.num_candidates // WIDEST)
        self._width = -(-source.num_candidates // (products * WIDTH_STEP)) * WIDTH_STEP
        self._products = -(-len(own) // self._width)
        at_once = max(1, TILE_NUMBERS[device.type] // (self._rows * self._width))
        shape = (max(1, min(at_once, self._products)), self._rows, self._width)
        self._tile = torch.zeros(shape, dtype=torch.float64, device=device)

    def of(self, candidates: Tensor, start: int, stop: int) -> Tensor:
        """Deviations of any candidates over samples start..stop-1, float64, in rows."""
        width = self._source.num_outputs
        rows = self._source.tile(candidates, start, stop).to(torch.float64)
        return rows - self._target[start * width : stop * width]

    def products(self, picks: Sequence[int], squares: bool = False) -> tuple[Tensor, Tensor]:
        """``<psi_i, psi_j> / m`` of picks j and own i, and ``|psi_i|^2 / m`` if asked for.

        The first call reads what is to be held.

        Returns:
            float64 (picks, num_own) and (num_own,).
        """
        m, factors = self._source.num_samples, self._factors(picks)
        shape = (factors.shape[1], self._products, PICKS, self._width)
        sums, lengths = factors.new_zeros(shape), factors.new_zeros(shape[1], self._width)
        for number, start in enumerate(range(0, m, self._run)):
            for first in range(0, self._products, len(self._tile)):
                tile = self._deviations(first, start, min(start + self._run, m))
                some = slice(first, first + len(tile))
                for block, factor in zip(sums[:, some], factors[number], strict=True):
                    block.baddbmm_(factor.expand(len(tile), -1, -1), tile)
                if squares:
                    lengths[some] += _summed(tile.square_())
            self._tick()
        self._is_read = self._held is not None
        own = len(self._own)
        gram = sums.transpose(1, 2).flatten(2).flatten(0, 1)[: len(picks), :own]
        return gram / m, lengths.flatten()[:own] / m

    def _factors(self, picks: Sequence[int]) -> Tensor:
        """The picks' deviations as products read them: (runs, blocks, PICKS, rows)."""
        m, run = self._source.num_samples, self._run * self._source.num_outputs
        found = self.of(torch.tensor(picks, dtype=torch.int64), 0, m)
        runs, blocks = -(-found.shape[1] // run), -(-len(picks) // PICKS)
        factors = found.new_zeros(runs, blocks * PICKS, self._rows)
        for number, part in enumerate(found.split(run, 1)):
            factors[number, : len(picks), : part.shape[1]] = part
        return factors.unflatten(1, (blocks, PICKS))

    def _deviations(self, first: int, start: int, stop: int) -> Tensor:
        """Deviations of own candidates over some samples: (products, rows, width).

        ``first``: product that they begin with.
        """
        width, outputs = self._width, self._source.num_outputs
        places = slice(first * width, min((first + len(self._tile)) * width, len(self._own)))
        numbers = slice(start * outputs, stop * outputs)
        found, target = self._read(places, numbers, start, stop), self._target[numbers, None]
        whole, rest = divmod(found.shape[1], width)
        tile = self._tile[: whole + (rest > 0)]
        tile[:, len(found) :] = 0
        parts = [(tile[:whole, : len(found)].transpose(0, 1), found[:, : whole * width])]
        if rest:
            parts.append((tile[whole:, : len(found), :rest].transpose(0, 1), found[:, -rest:]))
        for into, part in parts:
            part = part.unflatten(1, into.shape[1:])
            if part.dtype == torch.float64:
                torch.sub(part, target[..., None], out=into)
            else:
                into.copy_(part).sub_(target[..., None])
        return tile

    def _read(self, places: slice, numbers: slice, start: int, stop: int) -> Tensor:
        """Contributions of own candidates, candidates in columns."""
        if self._held is not None and self._is_read:
            return self._held[numbers, places]
        everything = places == slice(0, self._source.num_candidates)
        found = self._source.tile(None if everything else self._own[places], start, stop).T
        if self._held is not None:
            self._held[numbers, places] = found
        return found


def _summed(tile: Tensor) -> Tensor:
    """The sum of all rows, whose number is a power of two; overwrites them.

    Halves are added to each other: no order of terms is left to the processor.
    """
    while half := tile.shape[1] // 2:
        tile = tile[:, :half].add_(tile[:, half:])
    return tile[:, 0]
