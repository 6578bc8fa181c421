"""Second moments of the patches that a convolution or linear layer reads.

With patches ``x`` (one row a position: channels times kernel) and a target ``t``, the sums over
samples and positions are

    C = sum (x - mean x)(x - mean x)',   D = sum (x - mean x)(t - mean t)',
    e = sum |t - mean t|^2,   mean x,   mean t,   n

Deviations are multiplied, never values: where a mean is a thousand deviations from zero, products
of values round by more than the deviations are large. Products are float32, or float64 where the
input is or where squares would overflow or vanish; sums over chunks of samples are float64.

At stride 1 with padding that keeps the size, ``C`` comes from products of shifted inputs
(:mod:`gfs_dist.pruning.calibration.shifted_products`), three to five times as fast for a 3x3
kernel: these products are summed over samples, and :meth:`Geometry.assemble` makes ``C`` of the
sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.networks.measure.threads import Item, in_threads
from gfs_dist.networks.models.layer_kinds import num_groups, reads_features
from gfs_dist.pruning.calibration.shifted_products import (
    Window,
    convolves,
    flat,
    put_back,
    weight_gradient,
)
from gfs_dist.pruning.calibration.unfolding import Unfolding, must_unfold

Sums = dict[str, Tensor]
"""Sums over some samples by name, float64. ``count`` (1,): n. ``input_mean`` (c k k,), channel by
channel; ``inside`` (k k,): how often each kernel position lies inside the image; ``products``:
``C``, or (products, c, c) of shifted inputs, whose means are not taken off. ``target_mean``
(outputs,); ``energy`` (1,): e; ``cross`` (c k k, outputs): D."""

_MEANS = ("input_mean", "target_mean")

SQUARABLE = 1e-6, 1e15
"""Between these largest values, float32 squares and their sums neither vanish nor overflow."""


@dataclass(frozen=True)
class Moments:
    """Second moments about the means, over samples and positions; float64.

    Attributes:
        inputs: ``C`` (c k k, c k k), channel by channel; empty if only the target was summed.
        target: ``D`` (c k k, outputs).
        input_mean, target_mean: ``mean x``, ``mean t``.
        energy: ``e``.
        positions: ``n``.
        inside: (c k k,), positions at which each input lies inside the image.
        groups: of a grouped convolution, each of whose outputs is a map of some inputs: moments of
            inputs of two groups, and of a target with inputs of another one, are taken for zero.
    """

    inputs: Tensor
    target: Tensor
    input_mean: Tensor
    target_mean: Tensor
    energy: float
    positions: float
    inside: Tensor
    groups: int = 1

    @property
    def spread(self) -> Tensor:
        return spread(self.inputs.diagonal(), self.input_mean, self.inside, self.positions)

    def raw_inputs(self) -> Tensor:
        """``sum x x'``, as a fit without an intercept sees them."""
        mean = self.input_mean
        raw = self.inputs.addr(mean, mean, alpha=self.positions)
        return within_groups(raw, self.groups)

    def raw_target(self) -> Tensor:
        """``sum x t'``."""
        raw = self.target.addr(self.input_mean, self.target_mean, alpha=self.positions)
        return within_groups(raw, self.groups)


def within_groups(moments: Tensor, groups: int) -> Tensor:
    """Moments (rows, columns) with zeros for rows of one group and columns of another."""
    if groups == 1:
        return moments
    rows, columns = (
        torch.arange(size, device=moments.device) * groups // size for size in moments.shape
    )
    return moments.where(rows[:, None] == columns, 0.0)


def spread(diagonal: Tensor, mean: Tensor, inside: Tensor, count: float) -> Tensor:
    """Squared deviations of each input from its mean inside the image, summed.

    Padding makes an input vary by its mean, which is no information it carries: with ``m`` of
    ``n`` positions inside, ``C_ii - n mean_i^2 (n / m - 1)`` is what remains without that.

    Args:
        diagonal: of ``C``.
        mean, inside: of the same inputs.
        count: ``n``.
    """
    outside = count / inside.clamp(min=1) - 1
    return (diagonal - count * mean.square() * outside).clamp(min=0)


@dataclass(frozen=True)
class Geometry:
    """How a layer reads its input; a linear layer is a 1x1 convolution of one-pixel images.

    Attributes:
        kernel, stride, padding, dilation: along rows and columns.
        axis: of the channels: 1, in linear layers -1.
        groups: of channels.
        unfolding: of a layer whose patches are written out, to be read like features; None for
            linear layers and for plain convolutions of images.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    axis: int = 1
    groups: int = 1
    unfolding: Unfolding | None = None

    @classmethod
    def of(cls, module: nn.Module) -> Geometry:
        if reads_features(module):
            return FEATURES
        if must_unfold(module):
            found = Unfolding.of(module)
            ones, none = (1,) * len(found.kernel), (0,) * len(found.kernel)
            return cls(found.kernel, ones, none, ones, 1, num_groups(module), found)
        assert isinstance(module, nn.Conv2d)
        assert not isinstance(module.padding, str)
        (kh, kw), (sh, sw) = module.kernel_size, module.stride
        (ph, pw), (dh, dw) = module.padding, module.dilation
        return cls((kh, kw), (sh, sw), (ph, pw), (dh, dw))

    @property
    def window(self) -> Window | None:
        """The window of a padded layer that visits every position once; None for others."""
        same = all(2 * p == k - 1 for p, k in zip(self.padding, self.kernel, strict=True))
        visits_all = same and self.stride == (1, 1) and self.dilation == (1, 1)
        return Window(*self.padding) if visits_all and self.is_padded else None

    @property
    def is_padded(self) -> bool:
        """Whether some patches reach outside the image."""
        return any(self.padding)

    def sums(self, x: Tensor, target: Tensor, *, only_target: bool = False) -> Sums:
        """Sums of a batch.

        Args:
            x: (m, c, h, w), or (..., features) of a linear layer.
            target: (m, outputs, h', w'), or (..., outputs).
            only_target: omit ``products``, which do not depend on the target.
        """
        x, target = squarable(x, target)
        batch, target = self._batch(x), self.as_images(target)
        assert len(batch.x) == len(target), (batch.x.shape, target.shape)
        sums, deviations, rest = _about_mean(target)
        sums |= {**batch.means(), "cross": batch.cross(target, deviations, rest)}
        return sums if only_target else {**sums, "products": batch.products()}

    def target_sums(self, target: Tensor) -> Sums:
        """The sums that need the target alone."""
        (target,) = squarable(target)
        return _about_mean(self.as_images(target))[0]

    def _batch(self, x: Tensor) -> _Batch:
        if self.unfolding is None:
            return _Batch(self, self.as_images(x))
        patches = self.unfolding.patches(x).flatten(1, 2)[..., None]
        return _Batch(FEATURES, patches, len(x) * self.unfolding.inside(x))

    def input_sums(self, x: Tensor) -> Sums:
        """The sums that need the input alone."""
        (x,) = squarable(x)
        batch = self._batch(x)
        return {**batch.means(), "products": batch.products()}

    def assemble(self, sums: Sums, channels: int) -> Moments:
        """Moments from sums over all samples."""
        mean, count = sums["input_mean"], float(sums["count"])
        inputs = sums.get("products", mean.new_zeros(0, 0))
        if self.window and "products" in sums:
            inputs = self.window.assemble(list(inputs)).addr_(mean, mean, alpha=-count)
        return Moments(
            within_groups(inputs, self.groups),
            within_groups(sums["cross"], self.groups),
            mean,
            sums["target_mean"],
            float(sums["energy"]),
            count,
            sums["inside"].repeat(channels),
            self.groups,
        )

    def as_images(self, values: Tensor) -> Tensor:
        """Inputs or outputs as (m, c, h, w); rows of features become images of one pixel.

        Where patches are written out, outputs become images of one column.
        """
        if self.axis == -1:
            return values.reshape(-1, values.shape[-1], 1, 1)
        return values if self.unfolding is None else values.flatten(2)[..., None]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Inputs or outputs of several chunks, one below the other."""
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part if self.axis == 1 else part.flatten(0, -2) for part in parts])

    def patches(self, x: Tensor) -> Tensor:
        """The patches of images (m, c, h, w), as images: (m, c k k, h', w') or of one column."""
        if self.kernel == (1, 1) and not self.is_padded:
            return x[:, :, :: self.stride[0], :: self.stride[1]]
        unfolded = functional.unfold(x, self.kernel, self.dilation, self.padding, self.stride)
        return unfolded[..., None]


FEATURES = Geometry((1, 1), (1, 1), (0, 0), (1, 1), -1)


@dataclass(frozen=True)
class _Batch:
    """The sums of one batch of inputs, ``patches = deviations + large u``.

    ``u`` is 1 where a kernel position lies inside the image, 0 in the padding. In padded layers,
    large means are taken off before products are formed; what they add follows in float64.

    Attributes:
        geometry: of the layer; of features, where patches are written out.
        x: (m, c, h, w), squarable.
        met: positions at which each kernel position of patches written out met the image.
    """

    geometry: Geometry
    x: Tensor
    met: Tensor | None = None

    @cached_property
    def _large(self) -> Tensor | None:
        """Means of channels whose mean is larger than their deviation from it, 0 for the others:
        (c,); None where all are 0.

        Products of such channels round by far more than remains once the means' share is taken
        off: with half of 128 channels constant, float32 sums over 65,536 positions leave
        eigenvalues below zero by 5e-4 of the diagonal.
        """
        if not self.geometry.is_padded:
            return None
        means = self.x.mean((0, 2, 3))
        large = 2 * means.square() > self.x.square().mean((0, 2, 3))
        return means * large if large.any() else None

    @property
    def _inside(self) -> Tensor:
        """``u`` of one sample: float64 (k k, positions)."""
        return _inside(self.geometry, *self.x.shape[2:], self.x.device)

    @cached_property
    def _uneven(self) -> Tensor:
        """``u`` less its mean over positions."""
        return self._inside - self._inside.mean(1, keepdim=True)

    @cached_property
    def _deviations(self) -> Tensor:
        """Images less large means."""
        return self.x if self._large is None else self.x - self._large[:, None, None]

    @cached_property
    def _patches(self) -> tuple[Tensor, Tensor]:
        """Patches of the deviations less their mean, as images, and that mean."""
        patches = self.geometry.patches(self._deviations)
        mean = patches.mean((0, 2, 3), dtype=torch.float64)
        return patches - mean[:, None, None].to(patches.dtype), mean

    @cached_property
    def _mean(self) -> Tensor:
        """Mean of the deviations' patches, float64."""
        if not self.geometry.is_padded:
            return self._patches[1]
        total = self._deviations.sum(0).double()
        if self.geometry.window:
            # An offset meets the positions from which the opposite one stays inside.
            total = total.flatten(1) @ self._inside.flip(0).T
        else:
            total = self.geometry.patches(total[None]).sum((0, 2, 3))
        return total.flatten() / (len(self.x) * self._inside.shape[1])

    def means(self) -> Sums:
        """The input's sums other than products."""
        mean = self._mean
        if self._large is not None:
            mean = mean + torch.outer(self._large.double(), self._inside.mean(1)).flatten()
        met = len(self.x) * self._inside.sum(1) if self.met is None else self.met
        return {"input_mean": mean, "inside": met}

    def products(self) -> Tensor:
        """``C`` of the batch, or a window's products about zero."""
        if self.geometry.window:
            return self.geometry.window.products(self.x, self._large)
        products = _product(self._patches[0], self._patches[0])
        if self._large is None:
            return products
        eye = torch.eye(len(self._uneven), dtype=torch.float64, device=self.x.device)
        means = torch.kron(self._large.double()[:, None], eye)
        # Float32 deviations are exact enough among themselves, but not times large means.
        total = self._deviations.sum(0, keepdim=True, dtype=torch.float64)
        here = flat(self.geometry.patches(total)) @ self._uneven.T
        there = here + len(self.x) * means @ (self._uneven @ self._uneven.T)
        products = products.double()
        put_back(products, means, here, there)
        return products

    def cross(self, target: Tensor, deviations: Tensor, rest: Tensor) -> Tensor:
        """``D`` with a target (m, outputs, h', w').

        Args:
            deviations: from the target's mean, rounded.
            rest: their sums (outputs,), 0 but for that rounding.
        """
        g, images = self.geometry, self._deviations
        if g.is_padded and convolves(images):
            size, *steps = g.kernel, g.padding, g.stride, g.dilation
            cross = weight_gradient(images, deviations, size, *steps).flatten(1).T.contiguous()
        elif g.window:
            cross = g.window.cross(images, deviations).transpose(0, 1).flatten(0, 1)
        else:
            patches, rest = self._patches[0], torch.zeros_like(rest)  # their mean is taken off
            cross = _product(patches, deviations.reshape(len(patches), -1, *patches.shape[2:]))
        cross.addr_(self._mean.to(cross), rest.to(cross), alpha=-1)
        if self._large is None:
            return cross
        met = self._uneven @ target.double().sum(0).flatten(1).T
        return cross + torch.einsum("c,ko->cko", self._large.double(), met).flatten(0, 1)


@cache
def _inside(geometry: Geometry, height: int, width: int, device: torch.device) -> Tensor:
    """1 where a kernel position lies inside an image, 0 in the padding: (k k, positions)."""
    ones = torch.ones(1, 1, height, width, dtype=torch.float64, device=device)
    return flat(geometry.patches(ones))


def _product(x: Tensor, target: Tensor) -> Tensor:
    """``sum x t'`` over the positions of images of the same size: (c, outputs)."""
    if convolves(x):
        return weight_gradient(x, target, (1, 1)).flatten(1).T
    return flat(x) @ flat(target).T


def _about_mean(target: Tensor) -> tuple[Sums, Tensor, Tensor]:
    """The sums of a target (m, outputs, h, w) alone, its deviations, and what these sum up to.

    Deviations are from a mean in the target's dtype, rounded; float64 takes it from there.
    """
    near = target.mean((0, 2, 3))
    deviations = target - near[:, None, None]
    positions = target.numel() // target.shape[1]
    rest = deviations.sum((0, 2, 3)).double()
    energy = deviations.square().sum((0, 2, 3)).double() - rest.square() / positions
    sums = {
        "count": rest.new_tensor([positions]),
        "target_mean": near.double() + rest / positions,
        "energy": energy.clamp(min=0).sum()[None],
    }
    return sums, deviations, rest


def squarable(*values: Tensor) -> tuple[Tensor, ...]:
    """Values in one dtype in which squares neither overflow nor vanish, float32 or float64."""
    least, most = SQUARABLE
    extremes = [part.aminmax() for part in values]
    largest = [max(-float(low), float(high)) for low, high in extremes]
    safe = all(least < size < most for size in largest)
    narrow = safe and all(part.dtype != torch.float64 for part in values)
    return tuple(part.to(torch.float32 if narrow else torch.float64) for part in values)


def add(total: Sums | None, more: Sums, rows: slice = slice(None)) -> Sums:
    """Add the sums of one more part of the samples, float64; callers keep one order of parts.

    Moments about two means become moments about the mean of both (Chan, Golub, LeVeque 1979):

        C = C_1 + C_2 + n_1 n_2 / (n_1 + n_2) (mean_2 - mean_1)(mean_2 - mean_1)'

    Args:
        total: changed in place and returned; None for the first part.
        rows: rows of ``C`` that ``products`` hold.
    """
    if total is None:
        return {name: part.to(torch.float64, copy=True) for name, part in more.items()}
    before, new = float(total["count"]), float(more["count"])
    weight = before * new / (before + new)
    steps = {side: more[side] - total[side] for side in _MEANS if side in more}
    for name, part in more.items():
        if name in _MEANS:
            total[name].add_(steps[name], alpha=new / (before + new))
        else:
            total[name].add_(part)
    if "energy" in more:
        total["energy"] += weight * steps["target_mean"].square().sum()
    if "cross" in more:
        total["cross"].addr_(steps["input_mean"], steps["target_mean"], alpha=weight)
    if "products" in more and more["products"].ndim == 2:
        step = steps["input_mean"]
        total["products"].addr_(step[rows], step, alpha=weight)
    return total


def sum_chunks(
    work: Callable[[Item], Sums], chunks: Iterable[Item], tick: Callable[[], None] = lambda: None
) -> Sums:
    """``work`` of each chunk, or of several together, added in their order."""
    total: Sums | None = None
    for sums in in_threads(work, chunks):
        total = add(total, sums)
        tick()
    assert total is not None
    return total


def add_halves(
    count: int, part: Callable[[int], Sums], rows: slice = slice(None), first: int = 0
) -> Sums:
    """Sums of parts ``first`` to ``first + count``: of each half so, then of both.

    Whoever added up a half, or a half of that, has the same bits. Parts are asked for in order.

    Args:
        rows: see :func:`add`.
    """
    if count == 1:
        return add(None, part(first))
    half = count // 2
    left = add_halves(half, part, rows, first)
    return add(left, add_halves(count - half, part, rows, first + half), rows)


def multiply_adds(geometry: Geometry, channels: int, outputs: int, positions: int) -> int:
    """Multiply-adds of :meth:`Geometry.sums`."""
    kernel = math.prod(geometry.kernel)
    squares = geometry.window.num_whole_products if geometry.window else kernel * kernel
    return positions * channels * (squares * channels + kernel * outputs)
