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
WIDEST, LEAST_WIDE, WIDTH_STEP = 240, 144, 24
"""Candidates of a product, and what divides their number: kernels compute as many at once.
Powers of two, whose rows share lines of a cache, take a fifth longer."""
COPIED_NUMBERS = 2**19
"""Numbers that are copied at once: what the cache of a processor holds."""
ADDED = 128
"""Numbers of each candidate whose squares are added to those of the next as many."""
ADDED_WIDTH = 1024
"""Candidates whose squares are added at once: what the cache of a core holds."""
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
        source, own, hold: as given.
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
        self.source, self.own, self.hold = source, own, hold
        self._target, self._tick = target, tick
        n, m, outputs = source.num_candidates, source.num_samples, source.num_outputs
        self._held: Tensor | None = None
        self._is_read = hold and len(own) == n and source.remake_cost == 1
        if self._is_read:
            self._held = source.tile(None, 0, m).T
        elif hold:
            shape = (len(target), len(own))
            self._held = torch.empty(shape, dtype=source.dtype, device=source.device)
        self._run = max(1, ROWS // outputs)  # samples
        least = min(LEAST_WIDE, -(-n // WIDTH_STEP) * WIDTH_STEP)
        widths = range(WIDEST, least - 1, -WIDTH_STEP)
        self._width = min(widths, key=lambda width: -n % width)  # with the fewest left over
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
        width = self.source.num_outputs
        rows = self.source.tile(candidates, start, stop).to(torch.float64)
        return rows - self._target[start * width : stop * width]

    def products(self, picks: Sequence[int], squares: bool = False) -> tuple[Tensor, Tensor]:
        """``<psi_i, psi_j> / m`` of picks j and own i, and ``|psi_i|^2 / m`` if asked for.

        The first call reads what is to be held.

        Returns:
            float64 (picks, num_own) and (num_own,).
        """
        m, blocks, own = self.source.num_samples, -(-len(picks) // PICKS), len(self.own)
        chosen, outputs = torch.tensor(picks, dtype=torch.int64), self.source.num_outputs
        sums = self._target.new_zeros(blocks, self._products + 1, PICKS, self._width)
        lengths = self._target.new_zeros(ADDED if squares else 1, own)
        of_target = self._target.new_zeros(blocks * PICKS, 1)
        for start in range(0, m, self._run):
            stop = min(start + self._run, m)
            numbers = slice(start * outputs, stop * outputs)
            target = self._target[numbers, None]
            factors = target.new_zeros(blocks * PICKS, len(target))
            factors[: len(picks)] = self.of(chosen, start, stop)
            if self._subtract_last:
                of_target += _summed(factors.T.unsqueeze(0) * target).T
            for first, found in self._read(start, stop, numbers):
                for at, part in self._operands(first, found, target):
                    for block, into in enumerate(sums[:, at]):
                        factor = factors[block * PICKS : (block + 1) * PICKS]
                        into.baddbmm_(factor.expand(len(part), -1, -1), part)
                if squares:
                    _add_squares(lengths[:, first * self._width :], found, target)
            self._tick()
        self._is_read = self._held is not None
        rest = own % self._width
        if rest and own > self._width:  # either of the two is 0
            sums[:, -2, :, :rest] += sums[:, -1, :, -rest:]
        gram = sums[:, :-1].transpose(1, 2).flatten(2).flatten(0, 1) - of_target
        return gram[: len(picks), :own] / m, _summed(lengths.unsqueeze(0))[0] / m

    def _read(self, start: int, stop: int, numbers: slice) -> Iterator[tuple[int, Tensor]]:
        """Own contributions over some samples, candidates in columns, and their first product."""
        held = self._held if self._is_read else None
        step, width = len(self._copies), self._width
        if held is not None and self._stays(held):
            step = max(1, self._products)
        for first in range(0, self._products, step):
            places = slice(first * width, min((first + step) * width, len(self.own)))
            if held is not None:
                yield first, held[numbers, places]
                continue
            whole = places == slice(0, self.source.num_candidates)
            found = self.source.tile(None if whole else self.own[places], start, stop).T
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
        if self._stays(found) and found.shape[1] >= self._width:
            whole, rest = divmod(found.shape[1], self._width)
            part = found[:, : whole * self._width].unflatten(1, (whole, self._width))
            yield slice(first, first + whole), part.transpose(0, 1)
            if rest:  # a product that is full reads some again: to copy the rest takes longer
                yield slice(-1, None), found[:, -self._width :].unsqueeze(0)
            return
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


def _add_squares(lengths: Tensor, found: Tensor, target: Tensor) -> None:
    """Add ``(found - target)^2`` of number ``r`` (numbers, candidates) to row ``r mod ADDED``."""
    for first in range(0, found.shape[1], ADDED_WIDTH):
        columns = found[:, first : first + ADDED_WIDTH]
        into = lengths[:, first : first + columns.shape[1]]
        differences = torch.empty_like(into, memory_format=torch.contiguous_format)
        for rows, level in zip(columns.split(ADDED), target.split(ADDED), strict=True):
            torch.sub(rows, level, out=differences[: len(rows)])
            into[: len(rows)] += differences[: len(rows)].square_()


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
