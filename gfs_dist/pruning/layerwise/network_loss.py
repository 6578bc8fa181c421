"""The paper's objective for deep networks: the loss of the whole network, candidate by candidate.

Ye et al. 2020, arXiv:2003.01794, Algorithm 1; under ``uniform`` weights the layer after k picks
gives ``n / k`` times the sum of its picks, as their public code has it. Scores are mean
cross-entropies on one mini-batch; :mod:`gfs_dist.pruning.layerwise.replaced` says how they are
computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gfs_dist.errors import InputError, NonFiniteError
from gfs_dist.networks.classify import check_outputs
from gfs_dist.pruning.layerwise.replaced import Chunk, Replaced, Trial, loss_sums
from gfs_dist.pruning.layerwise.sampling import Sampling, read_rows
from gfs_dist.pruning.layerwise.threads import one_thread, one_thread_each
from gfs_dist.pruning.layerwise.trial_costs import batch_sizes, trials_at_once
from gfs_dist.pruning.layerwise.workspace import Workspace
from gfs_dist.pruning.structure import Layer
from gfs_dist.selection.build import Recipe
from gfs_dist.selection.state import OwnCandidates
from gfs_dist.selection.weights import WEIGHTS, LineSearch, Weights, quantise

PADDING = Trial(0, 0.0)


class Batching(NamedTuple):
    """How the candidates of a step are computed: the same on every rank, so that it does not
    matter which one computes which.

    Attributes:
        size: trials of a batch.
        places: in which place of a batch each candidate is computed.
    """

    size: int
    places: dict[int, int]

    @classmethod
    def of(cls, drawn: Sequence[int], most: int) -> Batching:
        """Of a step that scores ``drawn``, sorted, with at most so many in a batch.

        Any run of neighbours, as ranks own them, fills its batches but for the last.
        """
        size = trials_at_once(len(drawn), most)
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
        if not self.workspace.labelled:
            raise InputError(
                "batches: objective network_loss needs a label for every sample, accepted are "
                "pairs (x, y)"
            )
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

    def objective(self, own: Tensor, device: torch.device, tick: Callable[[], None]) -> NetworkLoss:
        def read(rows: Tensor) -> tuple[Tensor, Tensor]:
            x, labels = read_rows(self.workspace, rows)
            return x.to(device), labels.to(device)

        return NetworkLoss(
            Replaced(self.workspace.dense(device), self.layer),
            read,
            self.workspace.num_samples,
            own,
            self.sampling,
            WEIGHTS[self.recipe.weights],
            self.recipe.replacement,
            tick,
        )


class NetworkLoss(OwnCandidates):
    """The network's loss for the candidates of one rank.

    Every rank runs the samples up to the layer itself and knows the path, so that nothing but
    decisions travels. Line search has no slope to follow, and a golden section would need ten
    losses or more for each candidate: three are taken, at ``1/k``, at ``2/k`` and at the vertex of
    the parabola through them and the present loss, and the best of these four points is the step.

    Args:
        replaced: the layer.
        read: inputs and labels of sorted rows, on the device.
        num_samples: to draw from.
        own: candidates of this rank, sorted.
        sampling: samples and candidates of each step.
        weights, replacement: of the search.
        tick: called while it works.

    Raises:
        NonFiniteError, ShapeError, DataError: names the layer, and what is wrong with outputs or
            labels.
    """

    def __init__(
        self,
        replaced: Replaced,
        read: Callable[[Tensor], tuple[Tensor, Tensor]],
        num_samples: int,
        own: Tensor,
        sampling: Sampling,
        weights: Weights,
        replacement: bool,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(replaced.num_candidates, own, weights, replacement)
        self._replaced, self._read, self._tick = replaced, read, tick
        self._sampling, self._num_samples = sampling, num_samples
        self._coefficients = torch.zeros(self.num_candidates, dtype=torch.float64)
        self._picked = torch.zeros(self.num_candidates, dtype=torch.bool)
        self._chunks: list[Chunk] = []
        self._settled = 0
        self._most_trials: int | None = None
        self._steps: dict[int, float] = {}
        self._empty_loss = 0.0
        self._prepare()
        self._loss = self.scale = self._empty_loss

    def scores(self) -> Tensor:
        self._prepare()
        batching = self._batching()
        chosen = [int(i) for i in self.own if int(i) in batching.places]
        scores = torch.full((len(self.own),), torch.inf, dtype=torch.float64)
        if chosen:
            scores[torch.isin(self.own, torch.tensor(chosen))] = self._scored(chosen, batching)
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
        assert self._most_trials is not None
        return Batching.of(
            self._sampling.drawn(left, self.position + 1).tolist(), self._most_trials
        )

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
        items = list(itertools.product(batches, self._chunks))

        def work(item: tuple[tuple[int | None, ...], Chunk]) -> Tensor:
            padded = [PADDING if number is None else trials[number] for number in item[0]]
            return self._replaced.loss_sums(item[1], self._coefficients, padded)

        losses = torch.zeros(len(trials), dtype=torch.float64)
        with one_thread_each() as pool:
            for (batch, _), sums in zip(items, pool.map(work, items), strict=True):
                for number, loss in zip(batch, sums, strict=True):
                    if number is not None:
                        losses[number] += loss
                self._tick()
        losses /= sum(len(chunk.labels) for chunk in self._chunks)
        bad = ~torch.isfinite(losses)
        if bad.any():
            place = int(bad.nonzero()[0])
            raise NonFiniteError(
                f"layer {self._replaced.name!r}: the loss with candidate "
                f"{trials[place].candidate} as pick {self.position + 1} is {float(losses[place])}"
            )
        return losses

    def _prepare(self) -> None:
        """Samples and present coefficients of the next step."""
        k = self.position + 1
        if self._settled == k:
            return
        if self._sampling.fresh or not self._chunks:
            self._load(k)
        with one_thread_each() as pool:
            list(pool.map(lambda c: self._replaced.settle(c, self._coefficients), self._chunks))
        self._settled = k

    def _load(self, k: int) -> None:
        """Run the samples of step ``k`` up to the layer, and once through it."""
        x, labels = self._read(self._sampling.rows(self._num_samples, k))
        layer, silent = self._replaced, torch.zeros_like(self._coefficients)
        with one_thread():  # two samples are not worth a team of threads that wait for each other
            size, most = batch_sizes(layer, x)

        def work(start: int) -> tuple[Chunk, Tensor]:
            chunk = layer.enter(x[start : start + size], labels[start : start + size])
            logits = layer.logits(chunk, silent, [PADDING])
            check_outputs(logits, chunk.labels, start)
            if not torch.isfinite(logits).all():
                raise NonFiniteError(f"layer {layer.name!r}: the outputs without it are not finite")
            return chunk, loss_sums(logits, chunk.labels)

        with one_thread_each() as pool:
            self._chunks, total = [], 0.0
            for chunk, loss_sum in pool.map(work, range(0, len(x), size)):
                self._chunks.append(chunk)
                total += float(loss_sum)
                self._tick()
            self._empty_loss = total / len(x)
            if self._most_trials is None:  # depends on the network, not on the samples
                self._most_trials = most
                if most > 1 and not next(pool.map(layer.separable, self._chunks[:1])):
                    self._most_trials = 1


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
