"""Pruning a layer so that its consumers' outputs stay: ``least_squares`` and ``layer_output``.

Each consumer is a linear map of the candidates, with moments ``A`` of its inputs, dense weights
``V0`` and ``B = A V0`` (:mod:`gfs_dist.pruning.objectives.stored_moments`). ``least_squares``
refits weights ``V`` to the picks, ``layer_output`` scales the dense ones by ``n c_i``:

    min_V sum_maps |y - x V|^2 / (2 m),    sum_maps |y - sum_i n c_i x_i V0_i|^2 / (2 m)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks.measure.threads import one_thread_each
from gfs_dist.pruning.objectives.stored_moments import StoredMap
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives.block_least_squares import BlockLeastSquares, BlockMoments
from gfs_dist.selection.objectives.factory import Recipe, panel_objective
from gfs_dist.selection.partition import RankShare

PICKS_AT_ONCE, COLUMNS = 16, 512
"""How much is computed at once. The sizes decide last bits; the number of threads does not."""


@dataclass(frozen=True)
class LinearMap:
    """One consumer's map of the candidates, per sample.

    Attributes:
        inputs: ``A``, candidate by candidate; the rows of own candidates.
        target: ``B``, all of it.
        weights: ``V0``.
        energy: ``tr V0' A V0``.
        damping: what a fit adds to the diagonal of ``A``.
    """

    inputs: Tensor
    target: Tensor
    weights: Tensor
    energy: float
    damping: float

    @classmethod
    def load(
        cls, stored: StoredMap, num_candidates: int, own: Tensor, device: torch.device | str = "cpu"
    ) -> LinearMap:
        """Read a map; no other rows of ``A`` than those of ``own`` candidates, sorted."""
        inputs, target, weights = (t.to(device) for t in stored.read(num_candidates, own))
        return cls(inputs, target, weights, stored.energy, stored.damping)

    def block_moments(self, num_candidates: int, own: Tensor) -> BlockMoments:
        """The moments of own candidates for a search with refitted weights."""
        target = self.target.view(num_candidates, -1, self.target.shape[1])
        own_target = target[own.to(target.device)].flatten(0, 1)
        return BlockMoments(self.inputs, own_target, self.energy, self.damping)


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """Pruning one layer so that its consumers' outputs stay as in the dense network.

    Attributes:
        objective_name: ``least_squares`` (consumers refitted) or ``layer_output`` (scaled).
        maps: of the consumers.
        recipe: weights and replacement (``layer_output``).
    """

    objective_name: str
    num_candidates: int
    maps: tuple[StoredMap, ...]
    recipe: Recipe

    @property
    def is_refitted(self) -> bool:
        """Whether losses are those of refitted consumers."""
        return self.objective_name == "least_squares"

    def undamped_losses(self, picks: Sequence[int]) -> list[float]:
        n = self.num_candidates
        maps = [LinearMap.load(stored, n, torch.arange(n)) for stored in self.maps]
        return undamped_losses(maps, n, picks)

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        n, own = self.num_candidates, share.own
        maps = [LinearMap.load(stored, n, own, device) for stored in self.maps]
        tick()
        if self.is_refitted:
            return BlockLeastSquares([m.block_moments(n, own) for m in maps], n, own)
        return panel_objective(self.recipe, *gram_form(maps, n, own), own)


def gram_form(
    maps: Sequence[LinearMap], num_candidates: int, own: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Inner products of the contributions ``phi_i = n V_i' x_i``, whose mean is the dense output.

        G_ij = n^2 sum (A_ij * (V_i V_j')),    p_i = n sum(V_i * B_i),    e = tr(V0' B)

    Args:
        maps: with the rows of own candidates.

    Returns:
        Own columns of the Gram (n, num_own), correlation (n,), energy; all float64.

    Raises:
        NonFiniteError: NaN or infinite moments.
    """
    n, device = num_candidates, maps[0].inputs.device
    gram = torch.zeros(n, len(own), dtype=torch.float64, device=device)
    correlation, energy = torch.zeros(n, dtype=torch.float64, device=device), 0.0
    for m in maps:
        block = len(m.weights) // n
        weights = m.weights.view(n, block, -1)[own.to(device)].flatten(0, 1)
        size = max(1, COLUMNS // block) * block
        products = partial(_summed_products, m.weights, block)
        with one_thread_each() as pool:
            parts = pool.map(products, m.inputs.split(size), weights.split(size))
            gram += n**2 * torch.cat(list(parts)).T
        correlation += n * (m.weights * m.target).view(n, -1).sum(1)
        energy += m.energy
    if not (torch.isfinite(gram).all() and torch.isfinite(correlation).all()):
        raise NonFiniteError("moments: found NaN or infinite values")
    return gram, correlation, energy


def _summed_products(weights: Tensor, block: int, inputs: Tensor, own_weights: Tensor) -> Tensor:
    """``sum (A_ij * (V_i V_j'))`` of some own candidates ``i`` with all ``j``."""
    products = (own_weights @ weights.T).mul_(inputs)
    own, candidates = len(inputs) // block, len(weights) // block
    return products.view(own, block, candidates, block).sum((1, 3))


def undamped_losses(
    maps: Sequence[LinearMap], num_candidates: int, picks: Sequence[int]
) -> list[float]:
    """Squared loss after each pick of the damped fit, without the damping's own term.

    With ``V`` the fit on the first picks, ``|y - x V|^2 = e - tr(V'B) - lambda |V|^2``. All
    prefixes come from one factor ``A + lambda I = L L'``: with ``Z = L^-1 B`` and ``R = L^-1``,
    ``tr(V'B)`` adds up ``|Z_j|^2``, and pick ``j`` adds ``R_j' Z_j`` to ``V``. Some rows of ``V``
    need the same columns of ``R`` alone, so that threads share the rows.
    """
    losses = torch.zeros(len(picks), dtype=torch.float64)
    with one_thread_each() as pool:
        for m in maps:
            block = len(m.inputs) // num_candidates
            rows = torch.tensor([p * block + k for p in picks for k in range(block)])
            inputs = m.inputs[rows][:, rows]
            inputs.diagonal().add_(m.damping)
            factor = torch.linalg.cholesky(inputs)
            del inputs
            solve = partial(torch.linalg.solve_triangular, factor, upper=False)
            fitted = torch.cat(list(pool.map(solve, m.target[rows].split(COLUMNS, 1))), 1)
            explained = fitted.square().view(len(picks), -1).sum(1)
            lengths = partial(_squared_lengths, factor, fitted, block)
            squares = torch.zeros_like(explained)
            for some in pool.map(lengths, range(0, len(rows), max(1, COLUMNS // block) * block)):
                squares += some
            losses += (m.energy - (explained + m.damping * squares).cumsum(0)) / 2
    return losses.clamp(min=0).tolist()


def _squared_lengths(factor: Tensor, fitted: Tensor, block: int, first: int) -> Tensor:
    """What each pick adds to ``|V|^2`` in :data:`COLUMNS` rows of ``V`` from ``first`` on.

    ``V`` is the sum of ``R_j' Z_j`` so far; :data:`PICKS_AT_ONCE` picks are added at a time.
    """
    size, step = len(factor), block * PICKS_AT_ONCE
    width = min(max(1, COLUMNS // block) * block, size - first)
    columns = torch.zeros(size - first, width, dtype=torch.float64)
    columns.diagonal().fill_(1.0)
    columns = torch.linalg.solve_triangular(factor[first:, first:], columns, upper=False)
    total = torch.zeros(width, fitted.shape[1], dtype=torch.float64)
    added = torch.zeros(size // block, dtype=torch.float64)
    for new, z, some in zip(
        columns.split(step),
        fitted[first:].split(step),
        added[first // block :].split(PICKS_AT_ONCE),
        strict=True,
    ):
        picks = len(z) // block
        # |V + sum_i R_i' Z_i|^2: products with earlier picks' V, and among these picks.
        products = (new @ new.T).view(picks, block, picks, block)
        earlier = torch.tril(torch.full((picks, picks), 2.0, dtype=torch.float64), -1)
        weights = earlier + torch.eye(picks, dtype=torch.float64)
        among = (products * weights[:, None, :, None]).reshape(len(z), len(z)) @ z
        reached = torch.addmm(among, new, total, alpha=2)
        some += (reached * z).view(picks, -1).sum(1)
        total.addmm_(new.T, z)
    return added
