"""Step sizes ``g_k`` of ``u_k = (1 - g_k) u_{k-1} + g_k phi``.

The index of a pick and its step size travel in one int64 that sorts by index, so that one minimum
decides both: 29 bits of index, 33 of the step size in units of 2**-32, and one that is set if the
pick's own loss is above the minimum it ties with. Rounding the step size to these units changes a
loss by less than 2**-66 of the candidate's curvature.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

_UNIT = 2**32
MAX_CANDIDATES = 2**29
NO_DECISION = 2**63 - 1


class StepSizeRule(Protocol):
    """A rule for step sizes. ``slope`` and ``curvature`` are those of the loss along
    ``phi - u``; under a quadratic loss ``loss(g) = loss(0) + g slope + g**2 curvature / 2``.
    """

    name: str
    never_rises: bool
    """Whether a step size of 0 is allowed, so that no pick has to raise the loss. The search then
    ends when the best pick lowers it by no more than the tie tolerance."""

    def step_sizes(self, k: int, slope: Tensor, curvature: Tensor) -> Tensor:
        """Step size of each candidate as pick ``k``: float64, shape of ``slope``."""
        ...

    def decode(self, k: int, code: int) -> float:
        """The step size that travels as ``code``."""
        ...


class Uniform:
    """The paper's: every pick weighs 1/k, so that ``u_k`` is the mean of the picks."""

    name = "uniform"
    never_rises = False

    def step_sizes(self, k: int, slope: Tensor, curvature: Tensor) -> Tensor:
        return torch.full_like(slope, 1.0 / k)

    def decode(self, k: int, code: int) -> float:
        return 1.0 / k


class LineSearch:
    """The best step size in [0, 1] for each candidate (1 at the first pick)."""

    name = "line_search"
    never_rises = True

    def step_sizes(self, k: int, slope: Tensor, curvature: Tensor) -> Tensor:
        if k == 1:
            return torch.ones_like(slope)
        return minimisers(slope, curvature)

    def decode(self, k: int, code: int) -> float:
        return code / _UNIT


class Refitted(Uniform):
    """1/k by convention, where all weights are fitted again after each pick."""

    never_rises = True


WEIGHTS: dict[str, StepSizeRule] = {"uniform": Uniform(), "line_search": LineSearch()}
REFITTED = Refitted()


def minimisers(slope: Tensor, curvature: Tensor) -> Tensor:
    """Where ``g slope + g**2 curvature / 2`` is least for ``g`` in [0, 1], as it can travel."""
    best = torch.where(curvature > 0, -slope / curvature, (slope < 0).to(slope.dtype))
    return quantise(best.clamp(0.0, 1.0))


def quantise(step_sizes: Tensor) -> Tensor:
    """Step sizes in [0, 1] rounded to what :func:`encode` can carry."""
    return (step_sizes * _UNIT).round() / _UNIT


def encode(pick: int, step_size: float, above: bool = False) -> int:
    """``pick`` and its step size in [0, 1] as one integer that sorts by ``pick``.

    ``above``: whether the pick's loss is above the minimum, by less than the tie tolerance.
    """
    return (pick << 34) | (round(step_size * _UNIT) << 1) | above


def decode(decision: int) -> tuple[int, int, bool]:
    """The pick, the code of its step size, and whether its loss is above the minimum."""
    return decision >> 34, (decision >> 1) & (2**33 - 1), bool(decision & 1)
