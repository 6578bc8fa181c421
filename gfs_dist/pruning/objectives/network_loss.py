"""The paper's objective for deep networks: the loss of the whole network, candidate by candidate.

With coefficients ``c`` of one layer, all other layers dense, and ``l_s(c)`` the cross-entropy of
sample ``s`` (:mod:`gfs_dist.pruning.objectives.layer_replacement`), step ``k`` scores

    L_i = mean_s l_s((1 - g) c + g e_i)        (uniform: g = 1/k)

on one mini-batch. After k picks under ``uniform`` weights the layer is ``n / k`` times the sum of
its picks, as in the public code of Ye et al. 2020, arXiv:2003.01794, Algorithm 1.

Ranks divide the work of a step as cells of a table, chunks of samples by batches of candidates
(:mod:`gfs_dist.pruning.objectives.evaluation_batches`). The cells are exchanged and added in one
order, whatever ranks there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.errors import InputError, NonFiniteError, PicksDifferError
from gfs_dist.networks.measure.inputs import Batch
from gfs_dist.networks.measure.loss_and_accuracy import check_outputs
from gfs_dist.networks.measure.threads import one_thread, one_thread_each
from gfs_dist.pruning.calibration.batches import X
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.objectives.evaluation_batches import (
    PADDING,
    BatchPlaces,
    BatchSizes,
    Sampling,
)
from gfs_dist.pruning.objectives.layer_replacement import Chunk, LayerReplacement, Trial, loss_sums
from gfs_dist.pruning.structure.structure import Layer
from gfs_dist.selection.objective import Communicator, SingleRank
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.objectives.owned_candidates import OwnCandidates
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.step_sizes import WEIGHTS, LineSearch, quantise


@dataclass(frozen=True, eq=False)
class NetworkLossProblem:
    """Pruning one layer so that the network's loss stays low; all other layers are dense.

    Attributes:
        workspace: the dense network and labelled samples.
        layer: one of its layers.
        recipe: weights and replacement.
        sampling: samples and candidates of each step.
    """

    workspace: Workspace
    layer: Layer
    recipe: Recipe
    sampling: Sampling

    def __post_init__(self) -> None:
        self.workspace.require_labels("objective network_loss")
        if self.recipe.weights == "line_search" and self.sampling.candidates is not None:
            raise InputError(
                "weights: line_search ends where no candidate lowers the loss, which "
                f"{self.sampling.candidates} drawn candidates cannot tell; accepted all "
                "candidates, or uniform"
            )

    @property
    def num_candidates(self) -> int:
        return self.layer.num_candidates

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> NetworkLoss:
        return NetworkLoss(self, share, device, tick)


class NetworkLoss(OwnCandidates):
    """The network's loss for all candidates, of which one rank computes its cells.

    Every rank knows the path. What travels are the losses of every candidate summed over each
    chunk: each rank fills in its own and leaves infinity in the places of others, so that the
    minimum over ranks is all of them, bit for bit.

    Raises:
        NonFiniteError, ShapeError, DataError: names the layer, and the fault of outputs or labels.
    """

    divides_samples = True

    def __init__(
        self,
        problem: NetworkLossProblem,
        share: RankShare,
        device: torch.device,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        n, recipe = problem.num_candidates, problem.recipe
        super().__init__(n, torch.arange(n), WEIGHTS[recipe.weights], recipe.replacement)
        self._layer = LayerReplacement(problem.workspace.dense(device), problem.layer)
        self._workspace, self._device, self._tick = problem.workspace, device, tick
        self._sampling, self._share = problem.sampling, share
        self._communicator: Communicator = SingleRank()
        self._coefficients = torch.zeros(n, dtype=torch.float64)
        self._step_sizes: dict[int, float] = {}
        self._loss = self.empty_loss = math.nan  # until the ranks have joined
        self._batch = min(problem.sampling.batch, problem.workspace.num_samples)
        example = problem.workspace.tensors(0)[X][:2]
        with one_thread():  # two samples are too few for threads that wait for each other
            self._sizes = BatchSizes.of(self._layer, example.to(device), self._batch, device.type)
        self._num_chunks = math.ceil(self._batch / self._sizes.samples)
        self._chunks, self._empty_sums = self._enter_chunks()
        self._present = self.position
        self._own_most = self._find_most_trials()

    def join(self, communicator: Communicator) -> None:
        """Agree on the loss of the empty network, and on how many trials go side by side."""
        self._communicator = communicator
        told = torch.cat([self._empty_sums, self._own_most])
        *sums, most = communicator.minimum(told).tolist()
        self._sizes = self._sizes._replace(most=int(most))
        self.empty_loss = sum(sums) / self._batch
        if self.position == 0:
            self._loss = self.empty_loss

    def magnitude(self, loss: float) -> float:
        return max(abs(loss), self.empty_loss)

    def scores(self) -> Tensor:
        places = self._batch_places()
        drawn = list(places.places)
        scores = torch.full((self.num_candidates,), torch.inf, dtype=torch.float64)
        if drawn:
            scores[drawn] = self._score(drawn, places)
        return scores

    def score(self, pick: int) -> float:
        return float(self._score([pick], self._batch_places()))

    def column(self, pick: int, k: int) -> Tensor | None:
        return None

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        self._coefficients *= 1.0 - step_size
        self._coefficients[pick] += step_size
        self._loss = loss
        self.advance(pick)

    def _batch_places(self) -> BatchPlaces:
        """Places of the candidates that this step scores."""
        drawn = self._sampling.drawn(self.remaining, self.position + 1).tolist()
        return BatchPlaces.of(drawn, self._sizes, self._num_chunks)

    def _score(self, candidates: list[int], places: BatchPlaces) -> Tensor:
        """``L_i`` of each candidate: float64; their step sizes are kept."""
        k = self.position + 1
        step_sizes = torch.full((len(candidates),), 1.0 / k, dtype=torch.float64)

        def losses(step_sizes: Tensor) -> Tensor:
            steps = step_sizes.tolist()
            return self._losses([*map(Trial, candidates, steps)], places)

        if k > 1 and isinstance(self.weights, LineSearch):
            found, step_sizes = line_search(losses, self._loss, quantise(step_sizes))
        else:
            found = losses(step_sizes)
        self._step_sizes = dict(zip(candidates, step_sizes.tolist(), strict=True))
        return found

    def _losses(self, trials: Sequence[Trial], places: BatchPlaces) -> Tensor:
        """Mean loss of each trial: float64 (trials,)."""
        batches = places.batches(trials)
        own = self._share.cells(self._num_chunks * len(batches))
        cells = [divmod(cell, len(batches)) for cell in own]

        def evaluate(cell: tuple[int, int]) -> Tensor:
            chunk, batch = self._chunks[cell[0]], batches[cell[1]]
            padded = places.padded(batch, trials)
            logits = self._layer.logits(chunk, self._coefficients, padded)
            return loss_sums(logits, chunk.labels)

        table = torch.full((self._num_chunks, len(trials)), torch.inf, dtype=torch.float64)
        with one_thread_each() as pool:
            if self._present != self.position:
                chunks = self._chunks.values()
                list(pool.map(lambda c: self._layer.set_present(c, self._coefficients), chunks))
                self._present = self.position
            for (chunk, batch), sums in zip(cells, pool.map(evaluate, cells), strict=True):
                numbers, found = list(batches[batch].values()), sums[list(batches[batch])]
                if len(bad := (~torch.isfinite(found)).nonzero()):
                    raise NonFiniteError(
                        f"layer {self._layer.name!r}: the loss with candidate "
                        f"{trials[numbers[int(bad[0])]].candidate} as pick {self.position + 1} is "
                        f"{float(found[int(bad[0])])}"
                    )
                table[chunk, numbers] = found
                self._tick()
        losses = torch.zeros(len(trials), dtype=torch.float64)
        for row in self._exchanged(table):  # one by one: a sum's last bits depend on the order
            losses += row
        return losses / self._batch

    def _exchanged(self, table: Tensor) -> Tensor:
        """The table with the cells of all ranks.

        Raises:
            PicksDifferError: other ranks, or a record, have less in cells of this rank.
        """
        mine = table.isfinite()
        own = table[mine]
        whole = self._communicator.minimum(table.flatten()).view_as(table)
        if not torch.equal(whole[mine], own):
            raise PicksDifferError(
                f"layer {self._layer.name!r}, step {self.position + 1}: the losses that rank "
                f"{self._share.rank} of {self._share.num_ranks} computes are not those of all"
            )
        return whole

    def _find_most_trials(self) -> Tensor:
        """Trials of a batch at most, found by the rank of the first chunk: float64 (1,).

        Infinity on other ranks.
        """
        most = float(self._sizes.most)
        if 0 not in self._chunks:
            most = math.inf
        elif most > 1:
            with one_thread_each() as pool:
                if not next(pool.map(self._layer.is_separable, [self._chunks[0]])):
                    most = 1.0
        return torch.tensor([most], dtype=torch.float64)

    def _enter_chunks(self) -> tuple[dict[int, Chunk], Tensor]:
        """Run own samples up to the layer, and once through the network without it.

        Returns:
            Own chunks by number, and the loss of the empty network summed over each chunk: float64
            (chunks,), infinity for chunks of others.
        """
        layer, size = self._layer, self._sizes.samples
        absent = torch.zeros_like(self._coefficients)
        own = self._share.rows(self._num_chunks)
        rows = self._sampling.rows(self._workspace.num_samples)[own.start * size : own.stop * size]

        def enter(x: Batch, labels: Tensor, number: int) -> tuple[Chunk, Tensor]:
            assert isinstance(x, Tensor)
            # A copy: a sample's place in memory, which differs by rank, can decide last bits.
            chunk = layer.enter(x.clone(), labels)
            logits = layer.logits(chunk, absent, [PADDING])
            check_outputs(logits, chunk.labels, number * size)
            if not torch.isfinite(logits).all():
                raise NonFiniteError(f"layer {layer.name!r}: the outputs without it are not finite")
            return chunk, loss_sums(logits, chunk.labels)

        chunks: dict[int, Chunk] = {}
        sums = torch.full((self._num_chunks,), torch.inf, dtype=torch.float64)
        x, labels = (part.to(self._device).split(size) for part in self._workspace.rows(rows))
        with one_thread_each() as pool:
            for number, entered in zip(own, pool.map(enter, x, labels, own), strict=True):
                chunks[number], sums[number] = entered
                self._tick()
        return chunks, sums


def line_search(
    losses: Callable[[Tensor], Tensor], present: float, first: Tensor
) -> tuple[Tensor, Tensor]:
    """The best of four step sizes: 0, ``first``, twice that, and the vertex of their parabola
    (a quarter of ``first`` where that is not above 0).

    The loss has no slope to follow, and a golden section would need ten losses or more.

    Args:
        losses: loss at one step size for each candidate.
        present: loss at 0.
        first: step size of each candidate, at most 1/2.

    Returns:
        losses and step sizes, float64; equal losses go to the smaller step.
    """
    one, two = losses(first), losses(2 * first)
    slope = (4 * one - 3 * present - two) / (2 * first)
    curvature = (two - 2 * one + present) / first.square()
    vertex = torch.where(curvature > 0, -slope / curvature, (two < present).double())
    vertex = quantise(torch.where(vertex > 0, vertex.clamp(max=1.0), first / 4))
    steps = torch.stack([torch.zeros_like(first), first, 2 * first, vertex])
    found = torch.stack([torch.full_like(one, present), one, two, losses(vertex)])
    best = found.argmin(0, keepdim=True)
    return found.gather(0, best)[0], steps.gather(0, best)[0]
