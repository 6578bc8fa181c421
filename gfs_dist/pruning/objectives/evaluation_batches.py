"""Which losses a step by the network's loss evaluates, in what batches, and at what cost.

A step's losses are a table: rows are chunks of the mini-batch, columns batches of trials. Chunks,
batches and each candidate's place in a batch depend on the layer and the step alone, not on the
ranks, so that any rank finds the same bits in a cell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gfs_dist.errors import InputError
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.costs import macs_by_module
from gfs_dist.pruning.objectives.layer_replacement import LayerReplacement, Trial
from gfs_dist.pruning.structure.structure import Layer
from gfs_dist.selection.objectives.factory import Recipe

BATCH_BYTES = {"cpu": 2**26, "cuda": 2**30}
"""Bytes that the results of one batch may take. Constants, not shares of free memory: rounding
depends on the size of a batch, and every machine has to find the same losses."""

SAMPLE_PARTS = 8
"""Chunks of a mini-batch at most: a rank runs samples of other ranks neither up to the layer nor
through it."""

FEWEST_CELLS, MOST_CELLS = 8, 32
"""About how many cells a step has where it has enough trials: ranks divide them."""

LEAST_TRIAL = {"cpu": 2**19, "cuda": 2**24}
LEAST_BATCH = {"cpu": 2**22, "cuda": 2**28}
"""Bytes of the results of one trial on one chunk, and of a batch of trials, above which calls take
less than a tenth of the time (a call on a CPU takes as long as 50 KB of results)."""

LINE_SEARCH_LOSSES = 3
PADDING = Trial(0, 0.0)


@dataclass(frozen=True)
class Sampling:
    """Samples and candidates that steps evaluate, drawn from the seed and the step alone.

    Attributes:
        batch: samples of the mini-batch, the same at all steps; all samples if there are fewer.
        candidates: remaining candidates scored at each step; None for all.
        seed: of both.
    """

    batch: int = 128
    candidates: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, found in (("batch", self.batch), ("candidates", self.candidates)):
            if found is not None and found < 1:
                raise InputError(f"{name}: found {found}, accepted 1 or more")

    def rows(self, num_samples: int) -> Tensor:
        """Samples of the mini-batch, sorted."""
        if self.batch >= num_samples:
            return torch.arange(num_samples)
        order = torch.randperm(num_samples, generator=self._generator(0, 0))
        return order[: self.batch].sort().values

    def drawn(self, left: Tensor, k: int) -> Tensor:
        """Those of the candidates ``left`` (sorted) that step ``k`` scores, sorted.

        One from each of as many runs of neighbours, whose lengths differ by one at most: spread
        over the whole layer.
        """
        if self.candidates is None or self.candidates >= len(left):
            return left
        bounds = torch.arange(self.candidates + 1) * len(left) // self.candidates
        generator = self._generator(1, k)
        places = torch.rand(self.candidates, dtype=torch.float64, generator=generator)
        return left[bounds[:-1] + (places * bounds.diff()).long()]

    def _generator(self, *stream: int) -> torch.Generator:
        words = np.random.SeedSequence((self.seed % 2**32, *stream)).generate_state(1)
        return torch.Generator().manual_seed(int(words[0]))


class BatchSizes(NamedTuple):
    """Sizes of a layer's chunks and batches, from its shapes alone.

    Attributes:
        samples: of a chunk.
        least: trials that make a batch worth its calls.
        most: trials of a batch at most.
    """

    samples: int
    least: int
    most: int

    @classmethod
    def of(cls, layer: LayerReplacement, x: Tensor, num_samples: int, device: str) -> BatchSizes:
        """Sizes that keep the results of a pass of a chunk, and of a batch, in ``BATCH_BYTES``.

        Args:
            x: a few samples.
            num_samples: of the mini-batch.
            device: type of the device that computes.
        """
        kind = device if device in BATCH_BYTES else "cuda"
        limit, needed = BATCH_BYTES[kind], layer.bytes_needed(x[:2])
        trial = max(needed.trial, 1)
        wanted = max(num_samples // SAMPLE_PARTS, math.ceil(LEAST_TRIAL[kind] / trial))
        samples = max(1, min(num_samples, wanted, limit // max(needed.network, 1)))
        least = math.ceil(LEAST_BATCH[kind] / (trial * samples))
        return cls(samples, least, max(1, limit // (trial * samples)))

    def trials(self, candidates: int, chunks: int) -> int:
        """Trials of each batch of a step that scores so many candidates."""
        for_most_cells, for_fewest_cells = (
            math.ceil(candidates / math.ceil(cells / chunks))
            for cells in (MOST_CELLS, FEWEST_CELLS)
        )
        wanted = min(max(self.least, for_most_cells), for_fewest_cells)
        return max(1, min(wanted, self.most))


class BatchPlaces(NamedTuple):
    """The batches that evaluate one step.

    Attributes:
        size: trials of a batch.
        places: in its batch, of each candidate.
    """

    size: int
    places: dict[int, int]

    @classmethod
    def of(cls, drawn: Sequence[int], sizes: BatchSizes, chunks: int) -> BatchPlaces:
        """Places of the candidates ``drawn``, sorted."""
        size = sizes.trials(len(drawn), chunks)
        return cls(size, {candidate: number % size for number, candidate in enumerate(drawn)})

    def batches(self, trials: Sequence[Trial]) -> list[dict[int, int]]:
        """The numbers of the trials of each batch, by place."""
        queues: list[list[int]] = [[] for _ in range(self.size)]
        for number, trial in enumerate(trials):
            queues[self.places.get(trial.candidate, 0)].append(number)
        return [
            {place: number for place, number in enumerate(numbers) if number is not None}
            for numbers in itertools.zip_longest(*queues)
        ]

    def padded(self, batch: dict[int, int], trials: Sequence[Trial]) -> list[Trial]:
        """The trials of a batch, with :data:`PADDING` in its empty places."""
        return [trials[batch[p]] if p in batch else PADDING for p in range(self.size)]


@dataclass(frozen=True)
class SearchCosts:
    """Cost of the search of one layer.

    Attributes:
        losses: evaluated candidates, of all steps and ranks together.
        macs: multiply-adds of all of them.
        memory_bytes: of a rank that has all samples, the most that any has.
    """

    losses: int
    macs: int
    memory_bytes: int


def search_costs(
    network: GraphNetwork,
    layer: Layer,
    x: Tensor,
    num_samples: int,
    steps: int,
    recipe: Recipe,
    sampling: Sampling,
    threads: int = 1,
) -> SearchCosts:
    """Cost of a search by the network's loss.

    Args:
        network: recorded.
        x: a few samples.
        num_samples: to draw from.
        steps: picks.
        threads: batches that a rank works on at once.
    """
    replacement = LayerReplacement(network, layer)
    batch = min(sampling.batch, num_samples)
    losses = 0
    for k in range(1, steps + 1):
        left = layer.num_candidates - (0 if recipe.replacement else k - 1)
        each = 1 if k == 1 or recipe.weights == "uniform" else LINE_SEARCH_LOSSES
        losses += each * min(left, sampling.candidates or left)
    own, shared = replacement.macs(macs_by_module(network, x))
    needed = replacement.bytes_needed(x)
    limit = BATCH_BYTES.get(x.device.type, BATCH_BYTES["cuda"])
    in_work = max(limit, needed.network, needed.trial)
    return SearchCosts(
        losses=losses,
        macs=batch * (losses * own + steps * shared),
        memory_bytes=batch * needed.held + 2 * threads * in_work,
    )
