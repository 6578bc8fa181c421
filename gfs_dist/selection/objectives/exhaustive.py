"""The oracle: every candidate's loss from scratch at every step. Slow and obvious.

Used by the tests and by ``verify=true``; any loss, either rule for step sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gfs_dist.selection.objectives.contributions import TILE_NUMBERS, Deviations, check_finite
from gfs_dist.selection.objectives.losses import Loss
from gfs_dist.selection.objectives.owned_candidates import OwnCandidates
from gfs_dist.selection.step_sizes import StepSizeRule, Uniform, minimisers, quantise


class Exhaustive(OwnCandidates):
    """Holds the current output ``u`` and evaluates ``L[(1 - g) u + g psi_i]`` for every i.

    Args:
        source: contributions as the loss sees them.
        own: global indices of the own candidates.
        replacement: whether a candidate may be picked again.
        tick: called after every tile.
    """

    def __init__(
        self,
        source: Deviations,
        loss: Loss,
        own: Tensor,
        weights: StepSizeRule,
        replacement: bool,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(source.num_candidates, own, weights, replacement)
        self._source, self._measure, self._tick = source, loss, tick
        self._output, self._spread = zero_output(source), 0.0
        self._rows = max(1, TILE_NUMBERS // len(self._output))
        for part in self.own.split(self._rows):
            tile = self._contributions(part)
            check_finite(tile, tile.square().sum(1), part, 0, source.num_outputs)
            tick()

    def _contributions(self, candidates: Tensor) -> Tensor:
        return self._source.tile(candidates, 0, self._source.num_samples)

    def magnitude(self, loss: float) -> float:
        return self._measure.magnitude(loss, self._spread)

    def scores(self) -> Tensor:
        if len(self.own) == 0:
            return torch.empty(0, dtype=torch.float64)
        found = []
        for part in self.own.split(self._rows):
            found.append(self._evaluate(part))
            self._tick()
        scores, self._step_sizes = map(torch.cat, zip(*found, strict=True))
        return self.exclude(scores)

    def score(self, pick: int) -> float:
        return float(self._evaluate(torch.tensor([pick]))[0])

    def column(self, pick: int, k: int) -> Tensor | None:
        if self.place(pick) is None:
            return torch.empty_like(self._output)
        return self._contributions(torch.tensor([pick]))[0].contiguous()

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        assert column is not None, "a pick travels with its contribution"
        length = float(column.square().sum() / self._source.num_samples) ** 0.5
        self._spread += step_size * (length - self._spread)
        self._output += step_size * (column - self._output)
        self.advance(pick)

    def _evaluate(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        directions, k = self._contributions(candidates) - self._output, self.position + 1
        return evaluate(self._measure, self._output, directions, self.weights, k)


def zero_output(source: Deviations) -> Tensor:
    """The output of no candidate, float64 (samples * outputs,)."""
    length = source.num_samples * source.num_outputs
    return torch.zeros(length, dtype=torch.float64, device=source.device)


def evaluate(
    loss: Loss, output: Tensor, directions: Tensor, weights: StepSizeRule, k: int
) -> tuple[Tensor, Tensor]:
    """Loss after adding each candidate as pick ``k``, and its step size.

    ``directions``: rows ``psi_i - output``.
    """
    if isinstance(weights, Uniform) or k == 1:
        ones = torch.ones(len(directions), dtype=torch.float64, device=output.device)
        steps = weights.step_sizes(k, ones, ones)
    elif loss.name == "squared":
        slopes = directions @ loss.gradient(output)
        steps = minimisers(slopes, loss.curvatures(output, directions))
    else:
        best = [_line_search(loss, output, direction) for direction in directions]
        steps = quantise(torch.tensor(best, dtype=torch.float64, device=output.device))
    return loss.values(torch.addcmul(output, steps.unsqueeze(1), directions)), steps


def _line_search(loss: Loss, output: Tensor, direction: Tensor) -> float:
    """The step size in [0, 1] at which the loss along a direction is least.

    Newton's method on the derivative, which increases since the loss is convex, safeguarded by a
    shrinking bracket.
    """
    low, high, step = 0.0, 1.0, 0.5
    if float(loss.gradient(output + direction) @ direction) <= 0.0:
        return 1.0
    if float(loss.gradient(output) @ direction) >= 0.0:
        return 0.0
    for _ in range(60):
        at = output + step * direction
        slope = float(loss.gradient(at) @ direction)
        low, high = (step, high) if slope < 0.0 else (low, step)
        curvature = float(loss.curvatures(at, direction.unsqueeze(0)))
        newton = step - slope / curvature if curvature > 0.0 else 0.5 * (low + high)
        following = newton if low < newton < high else 0.5 * (low + high)
        if abs(following - step) < 1e-11:
            return following
        step = following
    return step
