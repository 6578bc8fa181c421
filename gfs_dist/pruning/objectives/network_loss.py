"""The paper's objective for deep networks: the loss of the whole network, candidate by candidate.

Ye et al. 2020, arXiv:2003.01794, Algorithm 1; under ``uniform`` weights the layer after k picks
gives ``n / k`` times the sum of its picks, as their public code has it. Scores are mean
cross-entropies on one mini-batch; :mod:`gfs_dist.pruning.objectives.layer_replacement` says how
they are computed.

The work of a step is a table: its rows are chunks of the mini-batch, its columns batches of
candidates. Every rank computes a run of its cells, row by row, and so runs few samples of others up
to the layer. What the cells come to is exchanged and added up in one order, whatever ranks there
are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gfs_dist.errors import InputError, NonFiniteError, PicksDifferError
from gfs_dist.networks.measure.loss_and_accuracy import check_outputs
from gfs_dist.pruning.calibration.determinism import one_thread, one_thread_each
from gfs_dist.pruning.calibration.sampling import Sampling, read_rows
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.objectives.evaluation_batches import BatchSizes, batch_sizes, trials_at_once
from gfs_dist.pruning.objectives.layer_replacement import Chunk, Replaced, Trial, loss_sums
from gfs_dist.pruning.structure.structure import Layer
from gfs_dist.selection.communicator import Communicator, SingleRank
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.objectives.owned_candidates import OwnCandidates
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.step_sizes import WEIGHTS, LineSearch, StepSizeRule, quantise

PADDING = Trial(0, 0.0)


class Batching(NamedTuple):
    """How the candidates of a step are computed: the same whatever ranks there are, so that it
    does not matter which one computes which.

    Attributes:
        size: trials of a batch.
        places: in which place of a batch each candidate is computed.
    """

    size: int
    places: dict[int, int]

    @classmethod
    def of(cls, drawn: Sequence[int], sizes: BatchSizes, chunks: int) -> Batching:
        """Of a step that scores ``drawn``, sorted."""
        size = trials_at_once(len(drawn), sizes, chunks)
        return cls(size, {c: number % size for number, c in enumerate(drawn)})


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
        if self.recipe.weights == "line_search" and self.sampling.fresh:
            raise InputError(
                "weights: line_search compares losses of different steps; found fresh "
                "mini-batches at every step, accepted the same at all, or uniform"
            )
        if self.recipe.weights == "line_search" and self.sampling.candidates is not None:
            raise InputError(
                "weights: line_search ends where no candidate lowers the loss, which "
                f"{self.sampling.candidates} drawn candidates cannot tell; accepted all "
                "candidates, or uniform"
            )

    @property
    def num_candidates(self) -> int:
        """Channels or hidden units of the layer."""
        return self.layer.num_candidates

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> NetworkLoss:
        """The loss of which one rank computes its slice of samples and candidates."""

        def read(rows: Tensor) -> tuple[Tensor, Tensor]:
            x, labels = read_rows(self.workspace, rows)
            return x.to(device), labels.to(device)

        return NetworkLoss(
            Replaced(self.workspace.dense(device), self.layer),
            read,
            self.workspace.num_samples,
            share,
            self.sampling,
            WEIGHTS[self.recipe.weights],
            self.recipe.replacement,
            tick,
        )


class NetworkLoss(OwnCandidates):
    """The network's loss for all candidates, of which one rank computes its slice.

    Every rank knows the path. What travels are the losses of every candidate summed over each
    chunk, of which each rank fills in its own and leaves infinity in the places of others: the
    minimum over ranks is all of them, bit for bit.

    Line search has no slope to follow, and a golden section would need ten losses or more for each
    candidate: three are taken, at ``1/k``, at ``2/k`` and at the vertex of the parabola through
    them and the present loss, and the best of these four points is the step.

    Args:
        replaced: the layer.
        read: inputs and labels of sorted rows, on the device.
        num_samples: to draw from.
        share: of this rank.
        sampling: samples and candidates of each step.
        weights, replacement: of the search.
        tick: called while it works.

    Raises:
        NonFiniteError, ShapeError, DataError: names the layer, and what is wrong with outputs or
            labels.
    """

    divides_samples = True

    def __init__(
        self,
        replaced: Replaced,
        read: Callable[[Tensor], tuple[Tensor, Tensor]],
        num_samples: int,
        share: RankShare,
        sampling: Sampling,
        weights: StepSizeRule,
        replacement: bool,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        everything = torch.arange(replaced.num_candidates)
        super().__init__(replaced.num_candidates, everything, weights, replacement)
        self._replaced, self._read, self._tick = replaced, read, tick
        self._sampling, self._num_samples = sampling, num_samples
        self._share = share
        self._communicator: Communicator = SingleRank()
        self._coefficients = torch.zeros(self.num_candidates, dtype=torch.float64)
        self._picked = torch.zeros(self.num_candidates, dtype=torch.bool)
        self._batch = min(sampling.batch, num_samples)
        self._sizes = self._batch_sizes()
        self._steps: dict[int, float] = {}
        self._loss = self.scale = math.nan  # until the ranks have joined
        self._chunks, self._empty_sums = self._load(1)
        self._own_most = self._find_most_trials()
        self._settle(1)

    def join(self, communicator: Communicator) -> None:
        """Agree on the loss of the empty network, and on how many trials go side by side."""
        self._communicator = communicator
        told = torch.cat([self._empty_sums, self._own_most])
        *sums, most = communicator.minimum(told).tolist()
        self._sizes = self._sizes._replace(most=int(most))
        self.scale = sum(sums) / self._batch
        if self.position == 0:
            self._loss = self.scale

    def magnitude(self, loss: float) -> float:
        return max(abs(loss), self.scale)

    def scores(self) -> Tensor:
        self._prepare()
        batching = self._batching()
        chosen = list(batching.places)
        scores = torch.full((self.num_candidates,), torch.inf, dtype=torch.float64)
        if chosen:
            scores[chosen] = self._scored(chosen, batching)
        return scores

    def score(self, pick: int) -> float:
        self._prepare()
        return float(self._scored([pick], self._batching()))

    def step_size(self, pick: int) -> float:
        return self._steps[pick]

    def column(self, pick: int, k: int) -> Tensor | None:
        return None

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        self._coefficients *= 1.0 - step_size
        self._coefficients[pick] += step_size
        self._picked[pick] = True
        self._loss = loss
        self.advance(pick)

    def _batching(self) -> Batching:
        """Of the candidates of this step."""
        left = torch.arange(self.num_candidates)
        if not self.replacement:
            left = left[~self._picked]
        drawn = self._sampling.drawn(left, self.position + 1).tolist()
        return Batching.of(drawn, self._sizes, self._num_chunks)

    def _scored(self, candidates: list[int], batching: Batching) -> Tensor:
        """Loss after adding each candidate: float64; their step sizes are noted."""
        k = self.position + 1
        step_sizes = torch.full((len(candidates),), 1.0 / k, dtype=torch.float64)

        def losses(step_sizes: Tensor) -> Tensor:
            steps = step_sizes.tolist()
            trials = [Trial(*pair) for pair in zip(candidates, steps, strict=True)]
            return self._losses(trials, batching)

        if k > 1 and isinstance(self.weights, LineSearch):
            found, step_sizes = line_search(losses, self._loss, quantise(step_sizes))
        else:
            found = losses(step_sizes)
        self._steps = dict(zip(candidates, step_sizes.tolist(), strict=True))
        return found

    def _losses(self, trials: Sequence[Trial], batching: Batching) -> Tensor:
        """Mean loss of each trial, computed in its place of a batch: float64 (trials,)."""
        queues: list[list[int]] = [[] for _ in range(batching.size)]
        for number, trial in enumerate(trials):
            queues[batching.places.get(trial.candidate, 0)].append(number)
        batches = list(itertools.zip_longest(*queues))
        cells = self._share.cells(self._num_chunks * len(batches))
        items = [divmod(cell, len(batches)) for cell in cells]

        def work(item: tuple[int, int]) -> Tensor:
            chunk, batch = item
            padded = [PADDING if number is None else trials[number] for number in batches[batch]]
            return self._replaced.loss_sums(self._chunks[chunk], self._coefficients, padded)

        table = torch.full((self._num_chunks, len(trials)), torch.inf, dtype=torch.float64)
        with one_thread_each() as pool:
            for (chunk, batch), sums in zip(items, pool.map(work, items), strict=True):
                numbers = [number for number in batches[batch] if number is not None]
                found = sums[[number is not None for number in batches[batch]]]
                self._check([trials[number] for number in numbers], found)
                table[chunk, numbers] = found
                self._tick()
        losses = torch.zeros(len(trials), dtype=torch.float64)
        for row in self._of_all(table):  # one by one: a sum's last bits depend on the order
            losses += row
        return losses / self._batch

    def _of_all(self, table: Tensor) -> Tensor:
        """The sums of all ranks.

        Raises:
            PicksDifferError: others, or a record, have less where only this rank computes.
        """
        mine = table.isfinite()
        own = table[mine]
        whole = self._communicator.minimum(table.flatten()).view_as(table)
        if not torch.equal(whole[mine], own):
            raise PicksDifferError(
                f"layer {self._replaced.name!r}, step {self.position + 1}: the losses that rank "
                f"{self._share.rank} of {self._share.num_ranks} computes are not those of all"
            )
        return whole

    def _check(self, trials: Sequence[Trial], losses: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            first = int(bad[0])
            raise NonFiniteError(
                f"layer {self._replaced.name!r}: the loss with candidate "
                f"{trials[first].candidate} as pick {self.position + 1} is {float(losses[first])}"
            )

    @property
    def _num_chunks(self) -> int:
        return math.ceil(self._batch / self._sizes.samples)

    def _batch_sizes(self) -> BatchSizes:
        """By shapes, so that any samples will do."""
        example, _ = self._read(torch.arange(min(2, self._num_samples)))
        with one_thread():  # two samples are not worth a team of threads that wait for each other
            return batch_sizes(self._replaced, example, self._batch, example.device.type)

    def _find_most_trials(self) -> Tensor:
        """Trials of a batch at most, as the rank of the first chunk finds it: float64 (1,).

        Infinity where others find it out.
        """
        most = float(self._sizes.most)
        if 0 not in self._chunks:
            most = math.inf
        elif most > 1:
            with one_thread_each() as pool:
                if not next(pool.map(self._replaced.separable, [self._chunks[0]])):
                    most = 1.0
        return torch.tensor([most], dtype=torch.float64)

    def _prepare(self) -> None:
        """Samples and present coefficients of the next step."""
        k = self.position + 1
        if self._settled == k:
            return
        if self._sampling.fresh:
            self._chunks.clear()
            self._chunks, _ = self._load(k)
        self._settle(k)

    def _settle(self, k: int) -> None:
        chunks = self._chunks.values()
        with one_thread_each() as pool:
            list(pool.map(lambda c: self._replaced.settle(c, self._coefficients), chunks))
        self._settled = k

    def _load(self, k: int) -> tuple[dict[int, Chunk], Tensor]:
        """Run own samples of step ``k`` up to the layer, and once through it.

        Returns:
            Own chunks by number, and the loss of the empty network summed over each chunk: float64
            (chunks,), infinity in the places of others.
        """
        layer, size = self._replaced, self._sizes.samples
        silent = torch.zeros_like(self._coefficients)
        own = self._share.rows(self._num_chunks)
        samples = self._sampling.rows(self._num_samples, k)[own.start * size : own.stop * size]

        def work(x: Tensor, labels: Tensor, number: int) -> tuple[Chunk, Tensor]:
            # A copy: where samples lie in memory, which differs by rank, can decide last bits.
            chunk = layer.enter(x.clone(), labels)
            logits = layer.logits(chunk, silent, [PADDING])
            check_outputs(logits, chunk.labels, number * size)
            if not torch.isfinite(logits).all():
                raise NonFiniteError(f"layer {layer.name!r}: the outputs without it are not finite")
            return chunk, loss_sums(logits, chunk.labels)

        chunks: dict[int, Chunk] = {}
        sums = torch.full((self._num_chunks,), torch.inf, dtype=torch.float64)
        parts = [part.split(size) for part in self._read(samples)]
        with one_thread_each() as pool:
            entered = pool.map(work, *parts, own)
            for number, (chunk, loss_sum) in zip(own, entered, strict=True):
                chunks[number], sums[number] = chunk, loss_sum
                self._tick()
        return chunks, sums


def line_search(
    losses: Callable[[Tensor], Tensor], present: float, first: Tensor
) -> tuple[Tensor, Tensor]:
    """The best of four step sizes: 0, ``first``, twice that, and the vertex of their parabola
    (a quarter of ``first`` where that is not above 0).

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
