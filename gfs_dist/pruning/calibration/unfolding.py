"""The patches that any convolution reads, written out: exact in every dtype and number of axes.

A transposed convolution reads them too. With ``stride - 1`` zeros between its inputs and enough of
them around, it is a convolution of stride 1 whose kernel is turned around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Unfolding:
    """How a convolution pads its input and cuts it into windows.

    Attributes:
        kernel, stride, dilation: along each axis.
        padding: as :func:`torch.nn.functional.pad` takes it: both ends of the last axis first.
        mode: of the padding.
        apart: inputs of a transposed convolution lie so far apart in what its windows visit.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    mode: str = "constant"
    apart: tuple[int, ...] | None = None

    @classmethod
    def of(cls, conv: Any) -> Unfolding:
        """That of a convolution, transposed or not."""
        kernel, dilation = conv.kernel_size, conv.dilation
        if not conv.transposed:
            padding = tuple(conv._reversed_padding_repeated_twice)  # noqa: SLF001 - every mode's
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            return cls(kernel, conv.stride, dilation, padding, mode)
        ends: list[int] = []
        for size, step, cut, more in zip(
            *(kernel, dilation, conv.padding, conv.output_padding), strict=True
        ):
            around = step * (size - 1) - cut
            ends = [around, around + more, *ends]
        ones = (1,) * len(kernel)
        return cls(kernel, ones, dilation, tuple(ends), apart=conv.stride)

    def patches(self, x: Tensor) -> Tensor:
        """(m, c, ...) as (m, c, kernel positions, output positions)."""
        axes = range(2, x.ndim)
        if self.apart is not None:
            sizes = [(x.shape[a] - 1) * s + 1 for a, s in zip(axes, self.apart, strict=True)]
            wide = x.new_zeros(*x.shape[:2], *sizes)
            places = [slice(None, None, step) for step in self.apart]
            wide[:, :, *places] = x
            x = wide
        if any(self.padding):
            x = functional.pad(x, self.padding, self.mode)
        for axis, size, step, between in zip(
            *(axes, self.kernel, self.stride, self.dilation), strict=True
        ):
            windows = x.unfold(axis, between * (size - 1) + 1, step)[..., ::between]
            x = windows if self.apart is None else windows.flip(-1)
        return x.flatten(2, 1 + len(self.kernel)).flatten(3).transpose(2, 3)

    def inside(self, x: Tensor) -> Tensor:
        """Output positions of one sample at which each kernel position meets an input."""
        ones = torch.ones(1, 1, *x.shape[2:], dtype=torch.float64, device=x.device)
        return self.patches(ones)[0, 0].sum(1)


def must_unfold(module: nn.Module) -> bool:
    """Whether a layer is a convolution, but no plain one of images that reads all channels."""
    if type(module) is not nn.Conv2d:
        return hasattr(module, "kernel_size")
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return not plain or module.groups > 1
