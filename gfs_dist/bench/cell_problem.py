"""The problem of a benchmark's cell, as a search by ranks takes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.bench.two_layer_cell import Cell, make_data
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.partition import RankShare


@dataclass(frozen=True)
class CellProblem:
    """The problem of a cell for ranks, each of which makes the data itself."""

    cell: Cell

    @property
    def num_candidates(self) -> int:
        """Neurons."""
        return self.cell.neurons

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        contributions, targets = _made(self.cell)
        source = ArrayContributions(contributions.to(device))
        recipe = Recipe(self.cell.objective, self.cell.method)
        return make_objective(
            recipe, source, targets[self.cell.objective].to(device), share.own, tick
        )


@functools.lru_cache(maxsize=1)
def _made(cell: Cell) -> tuple[Tensor, dict[str, Tensor]]:
    return make_data(cell)
