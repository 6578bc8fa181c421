"""A search problem that travels to workers: a matrix of contributions and a recipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.partition import RankShare


@dataclass(frozen=True)
class MatrixProblem:
    """Contributions (samples, neurons) and target (samples,); ``step_s`` is slept in each step."""

    contributions: Tensor
    target: Tensor
    recipe: Recipe
    step_s: float = 0.0

    @property
    def num_candidates(self) -> int:
        return self.contributions.shape[1]

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        source = ArrayContributions(self.contributions.to(device))
        made = make_objective(self.recipe, source, self.target.to(device), share.own, tick)
        if self.step_s:
            _slow_down(made, self.step_s)
        return made


def _slow_down(objective: Objective, step_s: float) -> None:
    scores = objective.scores

    def slow_scores() -> Tensor:
        time.sleep(step_s)
        return scores()

    objective.scores = slow_scores  # type: ignore[method-assign]


def matrix_problem(
    seed: int = 0, samples: int = 40, neurons: int = 24, method: str = "lazy", step_s: float = 0.0
) -> MatrixProblem:
    """Random, with duplicated neurons, so that ties must be broken alike everywhere."""
    generator = torch.Generator().manual_seed(seed)
    phi = torch.randn(samples, neurons, generator=generator, dtype=torch.float64)
    phi[:, neurons // 2] = phi[:, neurons // 3]
    phi[:, neurons - 1] = phi[:, 0]
    target = phi[:, : max(1, neurons // 4)].mean(1)
    target += 0.3 * torch.randn(samples, generator=generator, dtype=torch.float64)
    return MatrixProblem(phi, target, Recipe(method=method), step_s)
