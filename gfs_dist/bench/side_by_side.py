"""Whole layers side by side, a rank each, against the same layers one after another by all ranks.

Layers whose steps are too short to be worth an exchange each gain so too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gfs_dist.bench.blocks import Block, Study
from gfs_dist.bench.suite import Row
from gfs_dist.errors import PicksDifferError
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.objectives.evaluation_batches import Sampling
from gfs_dist.pruning.objectives.network_loss import NetworkLossProblem
from gfs_dist.pruning.structure.structure import Layer
from gfs_dist.runtime import Runtime
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop


@dataclass(frozen=True)
class LayerSearch:
    """Items are layers, each searched by one rank by the loss of the network.

    Attributes:
        workspace: of the network.
        stop, sampling: of every search.
    """

    workspace: Workspace
    stop: Stop
    sampling: Sampling

    def problem(self, layer: Layer) -> NetworkLossProblem:
        """The search of ``layer``."""
        recipe = Recipe("squared", "auto", "uniform", replacement=False)
        return NetworkLossProblem(self.workspace, layer, recipe, self.sampling)

    def run(self, layer: Layer, device: torch.device, tick: Callable[[], None]) -> GreedyPath:
        """Its path."""
        share = RankShare.whole(layer.num_candidates)
        return greedy(self.problem(layer).objective(share, device, tick), self.stop)


def side_by_side_row(
    study: Study, workspace: Workspace, block: Block, runtime: Runtime, repeats: int
) -> Row | None:
    """As many layers like ``block`` as there are ranks; None where there are not so many.

    Raises:
        PicksDifferError: a layer's picks depend on the way.
    """
    ranks = runtime.num_ranks
    if not 2 <= ranks <= len(block.alike):
        return None
    layers, settings = block.alike[:ranks], study.settings(block, "network_loss")
    assert settings.steps is not None
    task = LayerSearch(workspace, Stop(settings.steps), settings.sampling)
    together, by_turns = [], []
    for _ in range(repeats):  # the workers are warm: they have searched every block
        began = time.perf_counter()
        paths = list(runtime.map(task, layers))
        together.append(time.perf_counter() - began)
        began = time.perf_counter()
        split = [runtime.search(task.problem(layer), task.stop).path for layer in layers]
        by_turns.append(time.perf_counter() - began)
        if [path.picks for path in paths] != [path.picks for path in split]:
            raise PicksDifferError(f"{block.name}: layers side by side pick differently")
    side_s, split_s = statistics.median(together), statistics.median(by_turns)
    return {
        "block": block.name,
        "objective": "network_loss",
        "workers": ranks,
        "layers": ", ".join(layer.name for layer in layers),
        "side_by_side_s": side_s,
        "all_ranks_s": split_s,
        "side_by_side_over_split": split_s / side_s,
    }
