"""Second moments of the patches that a convolution or linear layer reads.

With patches ``x`` (one row a position: channels times kernel) and a target ``t``, the sums over
samples and positions are

    A = sum x x',   B = sum x t',   s = sum x,   r = sum t,   e = sum t't,   n

At stride 1 with padding that keeps the size, ``A`` is nearly Toeplitz: its block for kernel
offsets p and q is the correlation of the input with itself at shift q - p, except for lines of the
border that the window never puts there. So 13 products of shifted inputs and 12 thin ones do for a
3x3 kernel what takes 45 products of patches, and no patch is ever written to memory.

What is summed over samples are the correlations, in float64; :meth:`Geometry.assemble` makes
``A`` and ``B`` of the sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Sums = list[Tensor]
Shift = tuple[int, int]


@dataclass(frozen=True)
class Moments:
    """Sums over samples and positions, float64.

    Attributes:
        inputs: ``A`` (c k k, c k k), channel by channel.
        target: ``B`` (c k k, outputs).
        input_sum, target_sum: ``s``, ``r``.
        energy: ``e``.
        positions: ``n``.
    """

    inputs: Tensor
    target: Tensor
    input_sum: Tensor
    target_sum: Tensor
    energy: float
    positions: float

    def centred(self) -> Moments:
        """The same of deviations from the mean, as a fit with an intercept sees them."""
        n = max(self.positions, 1.0)
        s, r = self.input_sum, self.target_sum
        return Moments(
            self.inputs - torch.outer(s, s) / n,
            self.target - torch.outer(s, r) / n,
            s,
            r,
            self.energy - float(r @ r) / n,
            self.positions,
        )


@dataclass(frozen=True)
class Geometry:
    """How a layer reads its input; a linear layer is a 1x1 convolution of one position a row."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @classmethod
    def of(cls, module: nn.Module) -> Geometry:
        """That of a fittable module."""
        if isinstance(module, nn.Linear):
            return cls((1, 1), (1, 1), (0, 0), (1, 1))
        assert isinstance(module, nn.Conv2d)
        assert not isinstance(module.padding, str)
        pairs = (module.kernel_size, module.stride, module.padding, module.dilation)
        return cls(*((int(a), int(b)) for a, b in pairs))  # type: ignore[misc]

    @property
    def is_shifting(self) -> bool:
        """Whether the window visits every position once, so that shifts do."""
        same = all(2 * p == k - 1 for p, k in zip(self.padding, self.kernel, strict=True))
        return same and self.stride == (1, 1) and self.dilation == (1, 1)

    def sums(self, x: Tensor, target: Tensor, *, only_target: bool = False) -> Sums:
        """What is added over samples: ``r``, ``e``, n, ``B``'s parts, then :meth:`input_sums`.

        Args:
            x: (m, c, h, w), or (..., features) of a linear layer.
            target: (m, outputs, h', w'), or (..., outputs).
            only_target: leave out what does not depend on the target.
        """
        x, target = as_images(x), as_images(target)
        assert len(x) == len(target), (x.shape, target.shape)
        flat = _flat(target)
        facts = [
            flat.sum(1, dtype=torch.float64),
            flat.double().square().sum().reshape(1),
            torch.tensor([flat.shape[1]], dtype=torch.float64),
        ]
        cross = (self._shifted_cross if self.is_shifting else self._unfolded_cross)(x, target)
        return [*facts, cross.double(), *([] if only_target else self.input_sums(x))]

    def input_sums(self, x: Tensor) -> Sums:
        """``A``'s and ``s``'s parts."""
        made = self._shifted_squares if self.is_shifting else self._unfolded_squares
        return [part.double() for part in made(as_images(x))]

    def assemble(self, sums: Sums, channels: int) -> Moments:
        """``A`` and ``B`` from sums over all samples (``only_target``: with an empty ``A``)."""
        target_sum, energy, positions, cross, *rest = sums
        outputs, (kh, kw) = len(target_sum), self.kernel
        cross = cross.view(kh * kw, channels, outputs).transpose(0, 1).reshape(kh * kw * channels, outputs)
        size = channels * kh * kw
        if not rest:
            inputs, input_sum = cross.new_zeros(0, 0), cross.new_zeros(0)
        elif self.is_shifting:
            inputs, input_sum = self._from_shifts(rest, channels)
        else:
            inputs, input_sum = rest
        assert not rest or inputs.shape == (size, size)
        return Moments(inputs, cross, input_sum, target_sum, float(energy), float(positions))

    def _unfolded_cross(self, x: Tensor, target: Tensor) -> Tensor:
        cross = (self._patches(x) @ _flat(target).T).view(x.shape[1], -1, target.shape[1])
        return cross.transpose(0, 1)

    def _unfolded_squares(self, x: Tensor) -> Iterator[Tensor]:
        patches = self._patches(x)
        yield patches @ patches.T
        yield patches.sum(1, dtype=torch.float64)

    def _patches(self, x: Tensor) -> Tensor:
        patches = functional.unfold(x, self.kernel, self.dilation, self.padding, self.stride)
        return patches.transpose(0, 1).reshape(patches.shape[1], -1)

    def _shifted_cross(self, x: Tensor, target: Tensor) -> Tensor:
        """Inputs and target in frames of zeros, laid end to end: a shift is an offset in memory."""
        row = x.shape[3] + 2 * self.padding[1]
        framed, aimed = _framed(x, self.padding), _framed(target, self.padding)
        shifts = [dy * row + dx for dy, dx in self._offsets()]
        return torch.stack([_correlation(framed, aimed, -shift) for shift in shifts])

    def _shifted_squares(self, x: Tensor) -> Iterator[Tensor]:
        row = x.shape[3] + 2 * self.padding[1]
        framed = _framed(x, self.padding)
        shifts = [dy * row + dx for dy, dx in self._shifts()]
        yield torch.stack([_correlation(framed, framed, shift) for shift in shifts])
        for line in self._lines(x):
            yield line
        yield torch.stack([part.sum((0, 2, 3), dtype=torch.float64) for part in self._edges(x)])

    def _offsets(self) -> list[Shift]:
        """Kernel positions relative to its centre, in the order of the weights."""
        (kh, kw), (ph, pw) = self.kernel, self.padding
        return [(y - ph, x - pw) for y in range(kh) for x in range(kw)]

    def _shifts(self) -> list[Shift]:
        """Differences of two offsets, one of each pair of opposites."""
        (ph, pw) = self.padding
        every = [(dy, dx) for dy in range(2 * ph + 1) for dx in range(-2 * pw, 2 * pw + 1)]
        return [(dy, dx) for dy, dx in every if dy > 0 or dx >= 0]

    def _edges(self, x: Tensor) -> list[Tensor]:
        """Parts of the input that windows miss: for each offset the rows and columns it sees."""
        return [self._seen(x, offset) for offset in self._offsets()]

    def _seen(self, x: Tensor, offset: Shift) -> Tensor:
        """What an offset meets while the window's centre visits all positions."""
        (dy, dx), (h, w) = offset, x.shape[2:]
        return x[:, :, max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)]

    def _lines(self, x: Tensor) -> Iterator[Tensor]:
        """Corrections of each pair of offsets: correlations over what the first of them misses.

        Pairs with the same shift and the same missed lines share one; see :meth:`_from_shifts`.
        """
        yield torch.stack(
            [self._missed(x, p, q) for p, q in self._pairs()]
            or [x.new_zeros(x.shape[1], x.shape[1])]
        )

    def _pairs(self) -> list[tuple[Shift, Shift]]:
        """Pairs of offsets that miss border positions together, the first not after the second."""
        offsets = self._offsets()
        return [
            (p, q)
            for i, p in enumerate(offsets)
            for q in offsets[i:]
            if p[0] * q[0] > 0 or p[1] * q[1] > 0
        ]

    def _missed(self, x: Tensor, p: Shift, q: Shift) -> Tensor:
        """``sum x(v) x(v + q - p)'`` over the positions ``v`` of the input that offset ``p`` never
        meets, although both lie inside: a few lines of the border.
        """
        total = x.new_zeros(x.shape[1], x.shape[1])
        h, w = x.shape[2:]
        rows = _outside(p[0], q[0], h)
        columns = _outside(p[1], q[1], w)
        dy, dx = q[0] - p[0], q[1] - p[1]
        inner_rows = [v for v in range(h) if 0 <= v + dy < h]
        inner_columns = [v for v in range(w) if 0 <= v + dx < w]
        kept_rows = [v for v in inner_rows if v not in rows]
        for ys, xs in ((rows, inner_columns), (kept_rows, columns)):
            if ys and xs:
                here = x[:, :, ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
                there = x[:, :, ys[0] + dy : ys[-1] + dy + 1, xs[0] + dx : xs[-1] + dx + 1]
                total += _flat(here) @ _flat(there).T
        return total

    def _from_shifts(self, rest: Sums, channels: int) -> tuple[Tensor, Tensor]:
        correlations, missed, edges = rest
        at = {shift: correlations[i] for i, shift in enumerate(self._shifts())}
        at |= {(-dy, -dx): c.T for (dy, dx), c in list(at.items())}
        offsets = self._offsets()
        holes = {pair: missed[i] for i, pair in enumerate(self._pairs())}
        size = len(offsets)
        inputs = correlations.new_empty(channels, size, channels, size)
        for i, p in enumerate(offsets):
            for j, q in enumerate(offsets[i:], start=i):
                block = at[q[0] - p[0], q[1] - p[1]]
                if (p, q) in holes:
                    block = block - holes[p, q]
                inputs[:, i, :, j] = block
                inputs[:, j, :, i] = block.T
        return inputs.view(channels * size, channels * size), edges.T.reshape(-1)


def as_images(values: Tensor) -> Tensor:
    """(m, c, h, w); rows of features (..., c) become images of one pixel."""
    return values if values.ndim == 4 else values.reshape(-1, values.shape[-1], 1, 1)


def add(total: Sums | None, more: Sums) -> Sums:
    """Sums of one more part of the samples; always in the same order of parts."""
    if total is None:
        return more
    return [left.add_(right) for left, right in zip(total, more, strict=True)]


def multiply_adds(geometry: Geometry, channels: int, outputs: int, positions: int) -> int:
    """Of :meth:`Geometry.sums`, for the plan."""
    kernel = math.prod(geometry.kernel)
    if geometry.is_shifting:
        squares = (2 * geometry.kernel[0] - 1) * (2 * geometry.kernel[1] - 1) // 2 + 1
    else:
        squares = kernel * kernel
    return positions * channels * (squares * channels + kernel * outputs)


def _framed(x: Tensor, padding: tuple[int, int]) -> Tensor:
    ph, pw = padding
    return functional.pad(x, (pw, pw, ph, ph)).transpose(0, 1).reshape(x.shape[1], -1)


def _correlation(left: Tensor, right: Tensor, shift: int) -> Tensor:
    """``sum_u left(u) right(u + shift)'`` over one long row of positions."""
    size = left.shape[1]
    if shift < 0:
        return left[:, -shift:] @ right[:, : size + shift].T
    return left[:, : size - shift] @ right[:, shift:].T


def _outside(p: int, q: int, length: int) -> list[int]:
    """Positions ``v`` with ``v`` and ``v + q - p`` inside whose window centre ``v - p`` is not."""
    return [v for v in range(length) if 0 <= v + q - p < length and not 0 <= v - p < length]


def _flat(x: Tensor) -> Tensor:
    return x.transpose(0, 1).reshape(x.shape[1], -1)
