"""One layer's candidates as a problem for the search: from what its consumers read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath

import torch
from safetensors.torch import load_file
from torch import Tensor

from gfs_dist.files import scratch
from gfs_dist.pruning.layerwise.dense_pass import Reading
from gfs_dist.pruning.layerwise.refit import DAMPING, ROUNDING
from gfs_dist.pruning.layerwise.threads import one_thread_each
from gfs_dist.pruning.structure import Slice
from gfs_dist.selection.block import BlockLeastSquares, BlockMoments
from gfs_dist.selection.build import Recipe, moments_objective
from gfs_dist.selection.objective import Objective

PICKS_AT_ONCE, COLUMNS = 16, 512
"""How much is worked on at once. The sizes decide last bits; the number of threads does not."""

PARTS = ("inputs", "target", "weights", "energy")
"""Of a map in its file."""


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """Pruning one layer so that its consumers' outputs stay what they are in the dense network.

    Attributes:
        objective_name: ``least_squares`` (consumers refitted) or ``layer_output`` (scaled).
        num_candidates: of the layer.
        files: moments of each consumer, restricted to the candidates: see :func:`write_maps`.
        recipe: weights and replacement (``layer_output``).
    """

    objective_name: str
    num_candidates: int
    files: tuple[str, ...]
    recipe: Recipe

    @property
    def is_refitted(self) -> bool:
        """Whether losses are those of refitted consumers."""
        return self.objective_name == "least_squares"

    def undamped_losses(self, picks: Sequence[int]) -> list[float]:
        """See :func:`undamped_losses`."""
        maps = [m for file in self.files for m in read_maps(file)]
        return undamped_losses(maps, self.num_candidates, picks)

    def objective(self, own: Tensor, device: torch.device, tick: Callable[[], None]) -> Objective:
        maps = [_on(device, m) for file in self.files for m in read_maps(file)]
        tick()
        if self.is_refitted:
            return BlockLeastSquares([_damped(m) for m in maps], self.num_candidates, own)
        gram, correlation, energy = gram_form(maps, self.num_candidates)
        return moments_objective(self.recipe, gram, correlation, energy, own)


@dataclass(frozen=True)
class LinearMap:
    """One consumer's part that reads the candidates, per sample.

    Attributes:
        moments: ``A``, ``B = A V0`` and energy ``tr V0' A V0``, blocks in order of candidates.
        weights: ``V0`` in the same order.
    """

    moments: BlockMoments
    weights: Tensor


def restrict(reading: Reading, consumer: Slice, samples: int) -> LinearMap:
    """What a consumer reads of a layer's candidates, candidate by candidate.

    Other inputs (of another branch of a concatenation) are left out of both sides.
    """
    moments = reading.moments.centred() if reading.centred else reading.moments
    kernel = len(moments.inputs) // reading.channels
    rows = torch.tensor(
        [c * kernel + k for channels in consumer.channels for c in channels for k in range(kernel)]
    )
    inputs = moments.inputs
    if not torch.equal(rows, torch.arange(len(inputs))):
        inputs = inputs[rows][:, rows]
    inputs, weights = inputs / samples, reading.weights[rows]
    uncertain = ROUNDING * float(reading.moments.inputs.diagonal().mean()) / samples
    inputs.diagonal().add_(uncertain)
    with one_thread_each() as pool:
        target = torch.cat(list(pool.map(lambda some: some @ weights, inputs.split(COLUMNS))))
        energy = float((weights * target).sum())
    return LinearMap(BlockMoments(inputs, target, energy), weights)


def write_maps(path: FilePath | str, maps: Sequence[LinearMap]) -> None:
    """The maps of one layer as a file that ranks read."""
    tensors: dict[str, Tensor] = {}
    for i, m in enumerate(maps):
        energy = torch.tensor([m.moments.energy], dtype=torch.float64)
        values = (m.moments.inputs, m.moments.target, m.weights, energy)
        tensors |= {f"{i}.{part}": value for part, value in zip(PARTS, values, strict=True)}
    scratch.write_tensors(path, tensors)


def read_maps(path: FilePath | str) -> list[LinearMap]:
    """What :func:`write_maps` wrote."""
    tensors = load_file(path)
    maps = []
    for i in range(len(tensors) // len(PARTS)):
        inputs, target, weights, energy = (tensors[f"{i}.{part}"] for part in PARTS)
        maps.append(LinearMap(BlockMoments(inputs, target, float(energy)), weights))
    return maps


def gram_form(maps: Sequence[LinearMap], num_candidates: int) -> tuple[Tensor, Tensor, float]:
    """Inner products of the contributions ``phi_i = n V_i' x_i``, whose mean is the dense output.

        G_ij = n^2 sum (A_ij * (V_i V_j')),    p_i = n sum(V_i * B_i),    e = tr(V0' B)

    Returns:
        gram (n, n), correlation (n,), energy.
    """
    n = num_candidates
    gram, correlation, energy = torch.zeros(n, n).double(), torch.zeros(n).double(), 0.0
    for m in maps:
        inputs, weights = m.moments.inputs, m.weights
        block = len(inputs) // n
        products = inputs * (weights @ weights.T)
        gram += n**2 * products.view(n, block, n, block).sum((1, 3)).cpu()
        correlation += n * (weights * m.moments.target).view(n, -1).sum(1).cpu()
        energy += m.moments.energy
    return gram, correlation, energy


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
            block = len(m.moments.inputs) // num_candidates
            rows = torch.tensor([p * block + k for p in picks for k in range(block)])
            damping = _damping(m)
            inputs = m.moments.inputs[rows][:, rows]
            inputs.diagonal().add_(damping)
            factor = torch.linalg.cholesky(inputs)
            del inputs
            solve = partial(torch.linalg.solve_triangular, factor, upper=False)
            fitted = torch.cat(list(pool.map(solve, m.moments.target[rows].split(COLUMNS, 1))), 1)
            explained = fitted.square().view(len(picks), -1).sum(1)
            lengths = partial(_squared_lengths, factor, fitted, block)
            squares = torch.zeros_like(explained)
            for some in pool.map(lengths, range(0, len(rows), max(1, COLUMNS // block) * block)):
                squares += some
            losses += (m.moments.energy - (explained + damping * squares).cumsum(0)) / 2
    return losses.clamp(min=0).tolist()


def _squared_lengths(factor: Tensor, fitted: Tensor, block: int, first: int) -> Tensor:
    """What each pick adds to ``|V|^2`` in the rows of ``V`` from ``first`` on, some picks' worth.

    ``V`` is the sum of ``R_j' Z_j`` so far; a number of picks is added at a time.
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
        # |V + sum_i R_i' Z_i|^2: with what was there, and with the others of these picks.
        products = (new @ new.T).view(picks, block, picks, block)
        earlier = torch.tril(torch.full((picks, picks), 2.0, dtype=torch.float64), -1)
        weights = earlier + torch.eye(picks, dtype=torch.float64)
        among = (products * weights[:, None, :, None]).reshape(len(z), len(z)) @ z
        reached = torch.addmm(among, new, total, alpha=2)
        some += (reached * z).view(picks, -1).sum(1)
        total.addmm_(new.T, z)
    return added


def _damping(m: LinearMap) -> float:
    return DAMPING * float(m.moments.inputs.diagonal().mean()) or 1.0


def _damped(m: LinearMap) -> BlockMoments:
    inputs = m.moments.inputs.clone()
    inputs.diagonal().add_(_damping(m))
    return BlockMoments(inputs, m.moments.target, m.moments.energy)


def _on(device: torch.device, m: LinearMap) -> LinearMap:
    moments = m.moments
    return LinearMap(
        BlockMoments(moments.inputs.to(device), moments.target.to(device), moments.energy),
        m.weights.to(device),
    )
