"""Two-layer networks as a search problem: one candidate a hidden neuron (PAPER: equations 1-3)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.networks.models.two_layer import DTYPES, TwoLayer
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.objectives.refit import fit_of
from gfs_dist.selection.partition import RankShare


class TwoLayerContributions:
    """``phi_i = b_i act(a_i . x)`` for all neurons, made tile by tile and never held.

    Pre-activations are computed in float64 and then rounded to ``dtype``, so that what a tile
    holds does not depend on its shape, and with it not on the partition.

    Args:
        network: any device.
        x: inputs, float64 (samples, features); its device is that of the tiles.
        dtype: float64 or float32.
    """

    num_outputs = 1

    def __init__(self, network: TwoLayer, x: Tensor, dtype: torch.dtype) -> None:
        self._network = copy.deepcopy(network).to(device=x.device, dtype=torch.float64)
        self._x = x
        self.num_candidates, self.remake_cost = network.hidden.weight.shape
        self.num_samples = len(x)
        self.dtype, self.device = dtype, x.device

    def tile(self, candidates: Tensor | None, start: int, stop: int) -> Tensor:
        with torch.no_grad():
            neurons = torch.arange(self.num_candidates) if candidates is None else candidates
            made = self._network.contributions(self._x[start:stop], neurons.to(self.device))
            return made.to(self.dtype)


@dataclass(frozen=True, eq=False)
class TwoLayerProblem:
    """Pruning one two-layer network; travels to every rank, which reads its inputs itself.

    Attributes:
        inputs: reads ``(x, target)``: float64 (samples, features) and (samples,).
        network: the dense network.
        recipe: loss, method (settled), weights, replacement.
        precision: ``float64`` or ``float32``: how contributions are held.
    """

    inputs: Callable[[], tuple[Tensor, Tensor]]
    network: TwoLayer
    recipe: Recipe
    precision: str = "float64"

    @property
    def num_candidates(self) -> int:
        return self.network.width

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        x, target = self.inputs()
        source = TwoLayerContributions(self.network, x.to(device), DTYPES[self.precision])
        return make_objective(self.recipe, source, target.to(device), share.own, tick)

    def fit(self, picks: Sequence[int]) -> Tensor:
        """The fitted weights of all prefixes of ``picks``, from float64 contributions; see
        ``GreedyPath.fit``.
        """
        x, target = self.inputs()
        return fit_of(TwoLayerContributions(self.network, x, torch.float64), target, picks)
