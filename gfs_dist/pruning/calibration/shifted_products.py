"""Second moments of a window's patches, from products of the input with itself, shifted.

For two offsets ``p`` and ``q`` of a window that visits every position, the block ``A_pq`` of
``A = sum x x'`` is a sum over input positions ``v = centre + p``, with the shift ``s = q - p``:

    A_pq = sum_v x(v) x(v + s)'

over all ``v`` with ``v + s`` inside the image, less those *missed*, whose centre ``v - p`` lies
outside. Rows and columns are independent. With ``P(R, C)`` the sum over rows ``R`` and columns
``C``

    A_pq = P(all, all) - P(missed, all) - P(all, missed) + P(missed, missed)

``P(all, all)`` depends on ``s`` alone, and swapping ``p`` and ``q`` transposes each product, so
that most products serve several blocks: for a 3x3 window 13 products of whole images, 12 of single
lines and 4 of corners replace 45 blocks of patches, and no patch is written to memory.

Products of whole images are the gradient of a convolution's weights: on a CPU in float32, one such
call is two to four times as fast as products of shifted matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Offset = tuple[int, int]


class Positions(NamedTuple):
    """Positions ``v`` along one axis with ``v + shift`` inside the image.

    Attributes:
        shift: ``s``.
        missed_by: the offset ``p`` if only the positions it misses are meant; 0: all.
    """

    shift: int
    missed_by: int = 0

    @property
    def swapped(self) -> Positions:
        """The same pairs of positions, counted from the other end."""
        return Positions(-self.shift, self.missed_by and self.missed_by + self.shift)

    def within(self, length: int) -> slice:
        """These positions of an axis of ``length``."""
        start, stop = max(0, -self.shift), length - max(0, self.shift)
        if self.missed_by > 0:
            stop = min(stop, self.missed_by)
        elif self.missed_by < 0:
            start = max(start, length + self.missed_by)
        return slice(start, max(start, stop))


class ShiftedProduct(NamedTuple):
    """``P(rows, columns) = sum_v x(v) x(v + s)'``."""

    rows: Positions
    columns: Positions

    @property
    def shift(self) -> Offset:
        return self.rows.shift, self.columns.shift

    @property
    def transposed(self) -> ShiftedProduct:
        """The product whose value is the transpose of this one's."""
        return ShiftedProduct(self.rows.swapped, self.columns.swapped)

    @property
    def is_whole(self) -> bool:
        """Whether it is ``P(all, all)``; the others sum over few positions."""
        return not (self.rows.missed_by or self.columns.missed_by)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x(v)`` and ``x(v + s)`` of images (..., h, w)."""
        rows, columns = self.rows.within(x.shape[-2]), self.columns.within(x.shape[-1])
        dy, dx = self.shift
        shifted = x[..., rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]
        return x[..., rows, columns], shifted


class Summand(NamedTuple):
    """One product in the sum that makes a block of ``A``."""

    sign: int
    place: int
    is_transposed: bool


@dataclass(frozen=True)
class Window:
    """``(2 rows + 1) x (2 columns + 1)`` offsets around a centre that visits every position."""

    rows: int
    columns: int

    @property
    def offsets(self) -> list[Offset]:
        """In the order of a layer's weights."""
        ys, xs = range(-self.rows, self.rows + 1), range(-self.columns, self.columns + 1)
        return list(itertools.product(ys, xs))

    @property
    def num_whole_products(self) -> int:
        """Products of whole images, which take nearly all of the time."""
        return sum(product.is_whole for product in _expansion(self)[0])

    def products(self, x: Tensor, means: Tensor | None = None) -> Tensor:
        """All distinct products ``P`` of ``x`` (m, c, h, w): (products, c, c), its dtype.

        Args:
            means: (c,), taken off the channels before they are multiplied; what they add follows
                in float64, which the result then has.
        """
        deviations = x if means is None else x - means[:, None, None]
        products, _ = _expansion(self)
        found = x.new_empty(len(products), x.shape[1], x.shape[1])
        whole = self._whole_products(deviations)
        for out, product in zip(found, products, strict=True):
            if product.is_whole:
                out.copy_(whole[product.shift])
            else:
                here, there = product.operands(deviations)
                torch.mm(flat(here), flat(there).T, out=out)
        if means is None:
            return found
        found, means = found.double(), means.double()[:, None]
        total = x.sum(0, dtype=torch.float64)
        for out, product in zip(found, products, strict=True):
            here, there = product.operands(total)
            count = len(x) * here[0].numel()
            here, there = here.sum((1, 2))[:, None], there.sum((1, 2))[:, None]
            put_back(out, means, here, there - count * means)
        return found

    def cross(self, x: Tensor, target: Tensor) -> Tensor:
        """``sum x t'`` for each offset: (offsets, c, outputs), in the dtype of ``x``.

        Args:
            x: (m, c, h, w).
            target: (m, outputs, h, w).
        """
        read, aimed = self._laid_out(x), self._laid_out(target)
        shifts = (-self._memory_offset(x, offset) for offset in self.offsets)
        return torch.stack([_multiply(read, aimed, shift) for shift in shifts])

    def assemble(self, products: Sequence[Tensor], own: Sequence[int] | None = None) -> Tensor:
        """``A``, channel by channel, from products summed over samples.

        Args:
            products: each (c, c), in the order of :meth:`products`.
            own: channels whose rows are wanted; None for all.

        Returns:
            (own offsets, c offsets).
        """
        chosen = slice(None) if own is None else torch.tensor(own)
        rows, columns = [p[chosen] for p in products], [p.T[chosen] for p in products]
        size, channels = len(self.offsets), len(products[0])
        inputs = products[0].new_empty(len(rows[0]), size, channels, size)
        for (i, j), summands in _expansion(self)[1].items():
            inputs[:, i, :, j] = _signed_sum(summands, rows, columns)
            if i != j:
                inputs[:, j, :, i] = _signed_sum(summands, columns, rows)
        return inputs.view(-1, channels * size)

    def _whole_products(self, x: Tensor) -> dict[Offset, Tensor]:
        """``P(all, all)`` for each shift."""
        shifts = [product.shift for product in _expansion(self)[0] if product.is_whole]
        if convolves(x):  # no stored shift goes up
            down, across = 2 * self.rows, 2 * self.columns
            padded = functional.pad(x, (across, across, 0, down))
            found = weight_gradient(padded, x, (down + 1, 2 * across + 1))
            return {(dy, dx): found[:, :, dy, dx + across] for dy, dx in shifts}
        laid_out = self._laid_out(x)
        return {s: _multiply(laid_out, laid_out, self._memory_offset(x, s)) for s in shifts}

    def _laid_out(self, x: Tensor) -> Tensor:
        """(c, positions), so that a shift is an offset in memory: see :meth:`_memory_offset`.

        Rows lie outermost, images within them; zeros end each line of an image, so that a position
        shifted past its end meets a zero.
        """
        m, c, h, w = x.shape
        laid_out = x.new_zeros(c, h, m, w + 2 * self.columns)
        laid_out[..., :w] = x.permute(1, 2, 0, 3)
        return laid_out.flatten(1)

    def _memory_offset(self, x: Tensor, shift: Offset) -> int:
        row = x.shape[0] * (x.shape[3] + 2 * self.columns)
        return shift[0] * row + shift[1]


def _signed_sum(summands: Sequence[Summand], products: list[Tensor], other: list[Tensor]) -> Tensor:
    """``other``: the products transposed."""
    total = torch.zeros_like(products[0])
    for sign, place, is_transposed in summands:
        total.add_((other if is_transposed else products)[place], alpha=sign)
    return total


@cache
def _expansion(
    window: Window,
) -> tuple[tuple[ShiftedProduct, ...], dict[tuple[int, int], tuple[Summand, ...]]]:
    """Distinct products, one of each transposed pair, and the summands of each block ``p, q``."""
    places: dict[ShiftedProduct, int] = {}
    blocks: dict[tuple[int, int], tuple[Summand, ...]] = {}
    offsets = window.offsets
    for i, p in enumerate(offsets):
        for j, q in enumerate(offsets[i:], start=i):
            signed_rows, signed_columns = map(_all_less_missed, p, q)
            summands = []
            for (a, rows), (b, columns) in itertools.product(signed_rows, signed_columns):
                product = ShiftedProduct(rows, columns)
                stored = max(product, product.transposed, key=lambda one: one.shift)
                place = places.setdefault(stored, len(places))
                summands.append(Summand(a * b, place, stored != product))
            blocks[i, j] = tuple(summands)
    return tuple(places), blocks


def _all_less_missed(p: int, q: int) -> list[tuple[int, Positions]]:
    """Signed positions along one axis; offsets on both sides of the centre miss none."""
    every, missed = (1, Positions(q - p)), (-1, Positions(q - p, missed_by=p))
    return [every, missed] if p * q > 0 else [every]


def _multiply(left: Tensor, right: Tensor, shift: int) -> Tensor:
    """``sum_u left(u) right(u + shift)'`` over one long row of positions."""
    size = max(0, left.shape[1] - abs(shift))
    left, right = left[:, max(0, -shift) :], right[:, max(0, shift) :]
    return left[:, :size] @ right[:, :size].T


def convolves(x: Tensor) -> bool:
    """Whether sums over positions of images are faster as gradients of convolutions."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x[0, 0].numel() > 1


def weight_gradient(
    x: Tensor,
    target: Tensor,
    size: tuple[int, ...],
    padding: tuple[int, ...] = (0, 0),
    stride: tuple[int, ...] = (1, 1),
    dilation: tuple[int, ...] = (1, 1),
) -> Tensor:
    """``sum_v target(v) x(stride v + offset)'`` of a convolution's weights.

    Args:
        x: (m, c, h, w).
        target: what the convolution gives (m, outputs, h', w').
        size, padding, stride, dilation: of the convolution.

    Returns:
        (outputs, c, *size).
    """
    weight = x.new_empty(target.shape[1], x.shape[1], *size)
    found: Tensor = torch.ops.aten.convolution_backward(
        *(target, x, weight, None, stride, padding, dilation, False, (0, 0), 1),
        (False, True, False),
    )[1]
    return found


def put_back(products: Tensor, means: Tensor, here: Tensor, there: Tensor) -> None:
    """``products += here means' + means there'``, in place: all float64, with as many rows."""
    products.addmm_(torch.cat([here, means], 1), torch.cat([means, there], 1).T)


def flat(x: Tensor) -> Tensor:
    """(m, c, h, w) as (c, positions)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)
