"""A rank's own deviations, and their products with any others: the same bits on any partition.

Deviations are contributions less the target, ``psi_i = phi_i - y`` (see ``contributions.py``). All
sums are float64, whatever contributions are held in, of products of one shape: so many picks, so
many samples, so many candidates, the rest filled up. A processor adds up the terms of an element in
an order that depends on the shape of the product, not on the element's place in it; the bits so
depend neither on the partition or the number of threads nor on what else is multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gfs_dist.selection.objectives.contributions import Contributions

PICKS = 16
"""Of a product."""
ROWS = 2048
"""Numbers of each candidate in a product."""
WIDEST, WIDTH_STEP = 240, 24
"""Candidates of a product at most, and what divides their number: kernels compute as many at once.
Powers of two, whose rows share lines of a cache, take a fifth longer."""
COPIED_NUMBERS = 2**19
"""Numbers that are copied at once: what the cache of a processor holds."""
SEEN_FIRST = 256
"""Numbers of each candidate that tell which have small deviations."""
FARTHEST = 8.0
"""How many times as long as any deviation the target may be to be subtracted from sums."""


class OwnDeviations:
    """Deviations of a rank's own candidates.

        <psi_i, psi_j> = <phi_i, psi_j> - <y, psi_j>

    Where the target is not much longer than deviations, no digits are lost on the right side, which
    reads contributions where they are; else the target is subtracted first, from copies.

    Args:
        source: contributions of all candidates.
        target: float64 (samples * outputs,).
        own: candidates of this rank, sorted.
        hold: whether their contributions are held, in the dtype of the source. One rank does not
            copy those that are in memory.
        tick: called after every run of samples.

    Attributes:
        first_sight: squared lengths of all candidates' deviations over the first numbers (n,).
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
        n, m, outputs = source.num_candidates, source.num_samples, source.num_outputs
        self._held: Tensor | None = None
        self._is_read = hold and len(own) == n and source.remake_cost == 1
        if self._is_read:
            self._held = source.tile(None, 0, m).T
        elif hold:
            shape = (len(target), len(own))
            self._held = torch.empty(shape, dtype=source.dtype, device=source.device)
        self._run = max(1, ROWS // outputs)  # samples
        self._width = -(-n // (-(-n // WIDEST) * WIDTH_STEP)) * WIDTH_STEP
        self._products = -(-len(own) // self._width)
        rows = min(self._run, m) * outputs
        copied = max(1, COPIED_NUMBERS // (rows * self._width))
        self._copies = torch.zeros(
            max(1, min(copied, self._products)), rows, self._width,
            dtype=torch.float64, device=source.device,
        )  # fmt: skip
        some = min(m, max(1, SEEN_FIRST // outputs))
        parts = torch.arange(n).split(COPIED_NUMBERS // SEEN_FIRST)
        self.first_sight = torch.cat([self.of(part, 0, some).square().sum(1) for part in parts])
        shortest = FARTHEST**2 * float(self.first_sight.min()) * m / some
        self._subtract_last = float(target.square().sum()) <= shortest

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
        m, blocks, own = self._source.num_samples, -(-len(picks) // PICKS), len(self._own)
        picked = self.of(torch.tensor(picks, dtype=torch.int64), 0, m)
        shape = (blocks, self._products, PICKS, self._width)
        sums, lengths = picked.new_zeros(shape), picked.new_zeros(shape[1], shape[3])
        of_target = picked.new_zeros(blocks * PICKS, 1)
        for start in range(0, m, self._run):
            stop = min(start + self._run, m)
            numbers = slice(start * self._source.num_outputs, stop * self._source.num_outputs)
            target = self._target[numbers, None]
            factors = picked.new_zeros(blocks * PICKS, len(target))
            factors[: len(picks)] = picked[:, numbers]
            if self._subtract_last:
                of_target += _summed(factors.T.unsqueeze(0) * target).T
            for first, found in self._read(start, stop, numbers, squares):
                for at, part in self._operands(first, found, target):
                    for block, into in enumerate(sums[:, at]):
                        factor = factors[block * PICKS : (block + 1) * PICKS]
                        into.baddbmm_(factor.expand(len(part), -1, -1), part)
                if squares:
                    copy = self._copied(found, target)
                    lengths[first : first + len(copy)] += _summed(copy.square_())
            self._tick()
        self._is_read = self._held is not None
        gram = sums.transpose(1, 2).flatten(2).flatten(0, 1) - of_target
        return gram[: len(picks), :own] / m, lengths.flatten()[:own] / m

    def _read(
        self, start: int, stop: int, numbers: slice, copied: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Own contributions over some samples, candidates in columns, and their first product.

        ``copied``: so many at once as are copied.
        """
        held = self._held if self._is_read else None
        step, width = len(self._copies), self._width
        if held is not None and self._stays(held) and not copied:
            step = max(1, self._products)
        for first in range(0, self._products, step):
            places = slice(first * width, min((first + step) * width, len(self._own)))
            if held is not None:
                yield first, held[numbers, places]
                continue
            whole = places == slice(0, self._source.num_candidates)
            found = self._source.tile(None if whole else self._own[places], start, stop).T
            if self._held is not None:
                self._held[numbers, places] = found
            yield first, found

    def _stays(self, found: Tensor) -> bool:
        """Whether products read contributions where they are."""
        return self._subtract_last and found.dtype == torch.float64 and found.stride(1) == 1

    def _operands(
        self, first: int, found: Tensor, target: Tensor
    ) -> Iterator[tuple[slice, Tensor]]:
        """What products multiply, (products, numbers, width), and which products these are."""
        if self._stays(found):
            whole = found.shape[1] // self._width
            if whole:
                part = found[:, : whole * self._width].unflatten(1, (whole, self._width))
                yield slice(first, first + whole), part.transpose(0, 1)
            first, found = first + whole, found[:, whole * self._width :]
        if found.shape[1]:
            copy = self._copied(found, None if self._subtract_last else target)
            yield slice(first, first + len(copy)), copy

    def _copied(self, found: Tensor, target: Tensor | None) -> Tensor:
        """Float64 copies, less the target if it is given: (products, numbers, width)."""
        whole, rest = divmod(found.shape[1], self._width)
        copies = self._copies[: whole + (rest > 0), : len(found)]
        pairs = [(copies[:whole], found[:, : whole * self._width])]
        if rest:
            pairs.append((copies[whole:, :, :rest], found[:, -rest:]))
        for into, part in pairs:
            columns = part.unflatten(1, (len(into), into.shape[2])).transpose(0, 1)
            if target is None:
                into.copy_(columns)
            elif columns.dtype == torch.float64:
                torch.sub(columns, target, out=into)
            else:
                into.copy_(columns).sub_(target)
        return copies


def _summed(tile: Tensor) -> Tensor:
    """The sums of ``tile`` (products, numbers, width) over numbers; overwrites it.

    Halves are added to each other: no order of terms is left to the processor.
    """
    while (rows := tile.shape[1]) > 1:
        half = rows // 2
        if rows % 2:
            tile[:, 0] += tile[:, -1]
        tile = tile[:, :half].add_(tile[:, half : 2 * half])
    return tile[:, 0]
