"""Second moments of the patches that a convolution or linear layer reads.

With patches ``x`` (one row a position: channels times kernel) and a target ``t``, the sums over
samples and positions are

    A = sum x x',   B = sum x t',   s = sum x,   r = sum t,   e = sum t't,   n

At stride 1 with padding that keeps the size they come from products of shifted inputs, see
:mod:`gfs_dist.pruning.layerwise.shifts`: three to five times as fast for a 3x3 kernel, and no patch
is ever written to memory. What is summed over samples are then those products, and
:meth:`Geometry.assemble` makes ``A`` of their sums.

Products are formed in the dtype of the input, of channels whose mean is large less the mean; sums
over chunks of samples are float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.pruning.layerwise.shifts import Window, flat, large_means, put_back

Sums = list[Tensor]


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
    """How a layer reads its input; a linear layer is a 1x1 convolution of one position a row.

    Attributes:
        kernel, stride, padding, dilation: along rows and columns.
        axis: that of channels: 1, of linear layers -1.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    axis: int = 1

    @classmethod
    def of(cls, module: nn.Module) -> Geometry:
        """That of a fittable module."""
        if isinstance(module, nn.Linear):
            return cls((1, 1), (1, 1), (0, 0), (1, 1), -1)
        assert isinstance(module, nn.Conv2d)
        assert not isinstance(module.padding, str)
        (kh, kw), (sh, sw) = module.kernel_size, module.stride
        (ph, pw), (dh, dw) = module.padding, module.dilation
        return cls((kh, kw), (sh, sw), (ph, pw), (dh, dw))

    @property
    def window(self) -> Window | None:
        """Where it visits every position once, so that patches are shifts."""
        same = all(2 * p == k - 1 for p, k in zip(self.padding, self.kernel, strict=True))
        visits_all = same and self.stride == (1, 1) and self.dilation == (1, 1)
        return Window(*self.padding) if visits_all else None

    def sums(self, x: Tensor, target: Tensor, *, only_target: bool = False) -> Sums:
        """What is added over samples: ``r``, ``e``, n, ``B``'s parts, then :meth:`input_sums`.

        Args:
            x: (m, c, h, w), or (..., features) of a linear layer.
            target: (m, outputs, h', w'), or (..., outputs).
            only_target: leave out what does not depend on the target.
        """
        facts = self.target_sums(target)
        read, aimed = self.as_images(x), self.as_images(target)
        assert len(read) == len(aimed), (x.shape, target.shape)
        if self.window:
            cross = self.window.cross(read, aimed)
        else:
            cross = (self._patches(read) @ flat(aimed).T).unflatten(0, (read.shape[1], -1))
            cross = cross.transpose(0, 1)
        return [*facts, cross, *([] if only_target else self.input_sums(x))]

    def target_sums(self, target: Tensor) -> Sums:
        """``r``, ``e`` and n, float64."""
        target = self.as_images(target)
        return [
            target.sum((0, 2, 3), dtype=torch.float64),
            torch.linalg.vector_norm(target, dtype=torch.float64).square().reshape(1),
            torch.tensor([target.numel() // target.shape[1]], dtype=torch.float64),
        ]

    def input_sums(self, x: Tensor) -> Sums:
        """``A``'s parts (products, c, c) or itself, and ``s`` (kernel, c)."""
        x = self.as_images(x)
        if self.window:
            return [self.window.terms(x), self.window.sums(x)]
        means = large_means(x)
        if means is not None:
            return self._from_deviations(x, means)
        patches = self._patches(x)
        total = patches.sum(1, dtype=torch.float64).view(x.shape[1], -1)
        return [patches @ patches.T, total.T]

    def _from_deviations(self, x: Tensor, means: Tensor) -> Sums:
        """The same of patches ``d + M u``: deviations, and means where ``u`` says inside or 0."""
        d = self._patches(x - means[:, None, None])
        u = self._patches(torch.ones_like(x[:1, :1])).double()
        eye = torch.eye(len(u), dtype=torch.float64, device=x.device)
        spread = torch.kron(means.double()[:, None], eye)
        products = (d @ d.T).double()
        crossed = d.view(len(d), len(x), -1).sum(1, dtype=torch.float64) @ u.T
        put_back(products, spread, crossed, crossed + len(x) * spread @ (u @ u.T))
        total = d.sum(1, dtype=torch.float64) + len(x) * spread @ u.sum(1)
        return [products, total.view(x.shape[1], -1).T]

    def assemble(self, sums: Sums, channels: int) -> Moments:
        """``A`` and ``B`` from sums over all samples (``only_target``: with an empty ``A``)."""
        target_sum, energy, positions, cross, *rest = sums
        outputs, kernel = len(target_sum), math.prod(self.kernel)
        cross = cross.reshape(kernel, channels, outputs).transpose(0, 1)
        cross = cross.reshape(channels * kernel, outputs)
        inputs, input_sum = cross.new_zeros(0, 0), cross.new_zeros(0)
        if rest:
            inputs, input_sum = rest[0], rest[1].T.reshape(-1)
            if self.window:
                inputs = self.window.assemble(list(inputs))
            assert inputs.shape == (channels * kernel, channels * kernel)
        return Moments(inputs, cross, input_sum, target_sum, float(energy), float(positions))

    def as_images(self, values: Tensor) -> Tensor:
        """Inputs or outputs as (m, c, h, w); rows of features become images of one pixel."""
        return values if self.axis == 1 else values.reshape(-1, values.shape[-1], 1, 1)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Inputs or outputs of several chunks, one below the other."""
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part if self.axis == 1 else part.flatten(0, -2) for part in parts])

    def _patches(self, x: Tensor) -> Tensor:
        patches = functional.unfold(x, self.kernel, self.dilation, self.padding, self.stride)
        return patches.transpose(0, 1).reshape(patches.shape[1], -1)


def add(total: Sums | None, more: Sums) -> Sums:
    """Sums with those of one more part of the samples, float64; always in the same order."""
    if total is None:
        return [part.double() for part in more]
    return [left.add_(right) for left, right in zip(total, more, strict=True)]


def multiply_adds(geometry: Geometry, channels: int, outputs: int, positions: int) -> int:
    """Of :meth:`Geometry.sums`, for the plan."""
    kernel = math.prod(geometry.kernel)
    squares = geometry.window.num_products if geometry.window else kernel * kernel
    return positions * channels * (squares * channels + kernel * outputs)
