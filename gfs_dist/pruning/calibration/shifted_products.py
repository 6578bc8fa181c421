"""Moments of the patches of a window that visits every position, without the patches.

The block of ``A = sum x x'`` for the window's offsets ``p`` and ``q`` is a sum over the input's
positions ``v = centre + p``:

    A_pq = sum_v x(v) x(v + q - p)'

It depends on the shift ``q - p`` alone, but for the lines of the border where the centre ``v - p``
would lie outside. Along rows and along columns, ``v`` takes all positions less the missed lines,
so a block is

    all x all  -  lines x all  -  all x lines  +  lines x lines

and most of these terms serve several blocks: for a 3x3 window 13 products of the whole input with
itself, 12 of single lines and 4 of corners stand for 45 blocks of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

Offset = tuple[int, int]

All = int
"""All positions that have a partner inside at this shift."""

Lines = tuple[int, int]
"""Those of them that offset ``p`` misses, though with ``q`` they have a partner: ``(p, q)``."""

Part = All | Lines
Term = tuple[Part, Part]
"""Along rows and along columns: ``sum x(v) x(v + shift)'`` over the positions of both."""


@dataclass(frozen=True)
class Use:
    """One term in one block of ``A``."""

    place: int
    sign: int
    is_transposed: bool


@dataclass(frozen=True)
class Window:
    """``(2 rows + 1) x (2 columns + 1)`` offsets around a centre that visits every position.

    Attributes:
        rows, columns: how far it reaches.
    """

    rows: int
    columns: int

    @property
    def offsets(self) -> list[Offset]:
        """In the order of a layer's weights."""
        ys, xs = range(-self.rows, self.rows + 1), range(-self.columns, self.columns + 1)
        return [(y, x) for y in ys for x in xs]

    @property
    def num_products(self) -> int:
        """Terms over the whole input; the others are thin."""
        return sum(isinstance(rows, int) and isinstance(cols, int) for rows, cols in _plan(self)[0])

    def cross(self, x: Tensor, target: Tensor) -> Tensor:
        """``sum x t'`` for each offset.

        Args:
            x: (m, c, h, w).
            target: (m, outputs, h, w).

        Returns:
            (offsets, c, outputs), in the dtype of ``x``.
        """
        read, aimed = self._laid_out(x), self._laid_out(target)
        found = x.new_empty(len(self.offsets), x.shape[1], target.shape[1])
        for out, offset in zip(found, self.offsets, strict=True):
            _product(read, aimed, -self._offset(x, offset), out)
        return found

    def terms(self, x: Tensor, means: Tensor | None = None) -> Tensor:
        """All terms for ``x`` (m, c, h, w): (terms, c, c), in its dtype or float64.

        Args:
            means: what :func:`large_means` gives.
        """
        if means is None:
            return self._products(x)
        found = self._products(x - means[:, None, None]).double()
        self._put_back(found, x, means.double()[:, None])
        return found

    def _products(self, x: Tensor) -> Tensor:
        laid_out = self._laid_out(x)
        terms, _ = _plan(self)
        found = x.new_empty(len(terms), x.shape[1], x.shape[1])
        for out, (along_rows, along_columns) in zip(found, terms, strict=True):
            if isinstance(along_rows, int) and isinstance(along_columns, int):
                offset = self._offset(x, (along_rows, along_columns))
                _product(laid_out, laid_out, offset, out)
            else:
                _border_product(x, along_rows, along_columns, out)
        return found

    def _put_back(self, found: Tensor, x: Tensor, means: Tensor) -> None:
        """Make terms of ``x - means`` those of ``x``, in place."""
        total = x.sum(0, dtype=torch.float64)
        for out, term in zip(found, _plan(self)[0], strict=True):
            here, there = _partners(total, *term)
            count = len(x) * here[0].numel()
            here, there = here.sum((1, 2))[:, None], there.sum((1, 2))[:, None]
            put_back(out, means, here, there - count * means)

    def sums(self, x: Tensor) -> Tensor:
        """``sum x`` of what each offset meets: float64 (offsets, c)."""
        total = x.sum(0, dtype=torch.float64)
        seen = [
            total[:, _span(-dy, x.shape[2]), _span(-dx, x.shape[3])].sum((1, 2))
            for dy, dx in self.offsets
        ]
        return torch.stack(seen)

    def assemble(self, terms: Sequence[Tensor], own: Sequence[int] | None = None) -> Tensor:
        """``A``, channel by channel, from the terms' sums over samples.

        Args:
            terms: each (c, c).
            own: channels whose rows are wanted; None for all.

        Returns:
            (own offsets, c offsets).
        """
        chosen = slice(None) if own is None else torch.tensor(own)
        rows, columns = [term[chosen] for term in terms], [term.T[chosen] for term in terms]
        size, channels = len(self.offsets), len(terms[0])
        inputs = terms[0].new_empty(len(rows[0]), size, channels, size)
        for (i, j), uses in _plan(self)[1].items():
            inputs[:, i, :, j] = _signed_sum(uses, rows, columns)
            if i != j:
                inputs[:, j, :, i] = _signed_sum(uses, columns, rows)
        return inputs.view(-1, channels * size)

    def _laid_out(self, x: Tensor) -> Tensor:
        """(c, positions), so that a shift is an offset in memory: see :meth:`_offset`.

        Rows lie outermost, images within them; zeros end each line of an image, so that what is
        shifted over its end meets nothing.
        """
        m, c, h, w = x.shape
        laid_out = x.new_zeros(c, h, m, w + 2 * self.columns)
        laid_out[..., :w] = x.permute(1, 2, 0, 3)
        return laid_out.flatten(1)

    def _offset(self, x: Tensor, shift: Offset) -> int:
        row = x.shape[0] * (x.shape[3] + 2 * self.columns)
        return shift[0] * row + shift[1]


def _signed_sum(uses: Sequence[Use], terms: list[Tensor], transposed: list[Tensor]) -> Tensor:
    total = torch.zeros_like(terms[0])
    for use in uses:
        part = transposed if use.is_transposed else terms
        total.add_(part[use.place], alpha=use.sign)
    return total


@cache
def _plan(window: Window) -> tuple[tuple[Term, ...], dict[tuple[int, int], tuple[Use, ...]]]:
    """Distinct terms, and which of them make up the block of each pair of offsets.

    A term and its opposite are each other's transpose; one of them is enough.
    """
    places: dict[Term, int] = {}
    blocks: dict[tuple[int, int], tuple[Use, ...]] = {}
    offsets = window.offsets
    for i, p in enumerate(offsets):
        for j, q in enumerate(offsets[i:], start=i):
            uses = []
            for sign, term in _terms(p, q):
                opposite = _opposite(term)
                chosen = max(term, opposite, key=_order)
                place = places.setdefault(chosen, len(places))
                uses.append(Use(place, sign, is_transposed=chosen != term))
            blocks[i, j] = tuple(uses)
    return tuple(places), blocks


def _terms(p: Offset, q: Offset) -> list[tuple[int, Term]]:
    """The block of two offsets, as signed terms."""
    parts: list[list[tuple[int, Part]]] = []
    for one, other in zip(p, q, strict=True):
        misses = one * other > 0
        parts.append([(1, other - one), *([(-1, (one, other))] if misses else [])])
    return [(a * b, (rows, columns)) for a, rows in parts[0] for b, columns in parts[1]]


def _opposite(term: Term) -> Term:
    """The term whose products are transposed."""
    rows, columns = ((-part if isinstance(part, int) else part[::-1]) for part in term)
    return rows, columns


def _order(term: Term) -> tuple[int, int]:
    return _shift(term[0]), _shift(term[1])


def _shift(part: Part) -> int:
    return part if isinstance(part, int) else part[1] - part[0]


def _span(part: Part, length: int) -> slice:
    """Positions of a part along one side of the input."""
    shift = _shift(part)
    start, stop = max(0, -shift), length - max(0, shift)
    if not isinstance(part, int):
        if part[0] > 0:
            stop = min(stop, part[0])
        else:
            start = max(start, length + part[0])
    return slice(start, max(start, stop))


def _product(left: Tensor, right: Tensor, shift: int, out: Tensor) -> None:
    """``sum_u left(u) right(u + shift)'`` over one long row of positions."""
    size = max(0, left.shape[1] - abs(shift))
    left, right = left[:, max(0, -shift) :], right[:, max(0, shift) :]
    torch.mm(left[:, :size], right[:, :size].T, out=out)


def _border_product(x: Tensor, along_rows: Part, along_columns: Part, out: Tensor) -> None:
    """The same over a few lines."""
    here, there = _partners(x, along_rows, along_columns)
    torch.mm(flat(here), flat(there).T, out=out)


def _partners(values: Tensor, along_rows: Part, along_columns: Part) -> tuple[Tensor, Tensor]:
    """Of (..., h, w) the positions of a term, and what lies a shift from them."""
    ys, xs = _span(along_rows, values.shape[-2]), _span(along_columns, values.shape[-1])
    dy, dx = _shift(along_rows), _shift(along_columns)
    there = values[..., ys.start + dy : ys.stop + dy, xs.start + dx : xs.stop + dx]
    return values[..., ys, xs], there


def large_means(x: Tensor) -> Tensor | None:
    """Means of channels whose mean is larger than their deviation from it, 0 for the others.

    Products of such channels round by far more than is left once the means' share is taken off:
    half of 128 channels constant, and float32 sums over 65,536 positions leave eigenvalues below
    zero by 5e-4 of the diagonal. So their deviations are multiplied, and what the means add
    follows in float64 (:func:`put_back`).

    Args:
        x: (m, c, h, w).

    Returns:
        (c,), in their dtype; None where all are 0.
    """
    means = x.mean((0, 2, 3), dtype=torch.float64)
    lengths = torch.linalg.vector_norm(x, dim=(0, 2, 3), dtype=torch.float64)
    large = 2 * means.square() > lengths.square() / (x.numel() // len(means))
    return (means * large).to(x.dtype) if large.any() else None


def put_back(products: Tensor, means: Tensor, here: Tensor, there: Tensor) -> None:
    """``products += here means' + means there'``, in place: all float64, with as many rows."""
    products.addmm_(torch.cat([here, means], 1), torch.cat([means, there], 1).T)


def flat(x: Tensor) -> Tensor:
    """(m, c, h, w) as (c, positions)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)
