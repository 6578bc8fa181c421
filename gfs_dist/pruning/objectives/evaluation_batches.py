"""How many trials go through a network at once, and what a search by trials costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.costs import macs_by_module
from gfs_dist.pruning.calibration.sampling import Sampling
from gfs_dist.pruning.objectives.layer_replacement import Replaced
from gfs_dist.pruning.structure.structure import Layer
from gfs_dist.selection.objectives.factory import Recipe

BATCH_BYTES = {"cpu": 2**26, "cuda": 2**30}
"""What the results of one batch may take at once. Constants, not shares of what is free: rounding
depends on the size of a batch, and every machine has to find the same losses."""

SAMPLE_PARTS = 8
"""Chunks of a mini-batch at most: ranks that have whole chunks run others' samples neither up to
the layer nor through it."""

FEWEST_CELLS, MOST_CELLS = 8, 32
"""Pairs of a chunk and a batch of trials, about, where there are as many: ranks divide those of a
step."""

LEAST_TRIAL = {"cpu": 2**19, "cuda": 2**24}
LEAST_BATCH = {"cpu": 2**22, "cuda": 2**28}
"""Bytes of the results of one trial on one chunk, and of a batch of them, from which the calls take
no more than a tenth of the time (a call on a CPU: as long as 50 KB of results)."""

LINE_SEARCH_LOSSES = 3


class BatchSizes(NamedTuple):
    """How work is cut into cells, by the layer's shapes alone.

    Attributes:
        samples: of a chunk.
        least: trials of a batch that are worth its calls.
        most: trials of a batch at most.
    """

    samples: int
    least: int
    most: int


def batch_sizes(layer: Replaced, x: Tensor, num_samples: int, device: str) -> BatchSizes:
    """Chunks whose pass through the whole network keeps within :data:`BATCH_BYTES`, then batches
    of trials behind the layer that do.

    Args:
        layer: to search.
        x: a few samples.
        num_samples: of the mini-batch.
        device: type of the one that computes.
    """
    kind = device if device in BATCH_BYTES else "cuda"
    limit, needed = BATCH_BYTES[kind], layer.bytes_needed(x[:2])
    trial = max(needed.trial, 1)
    wanted = max(num_samples // SAMPLE_PARTS, math.ceil(LEAST_TRIAL[kind] / trial))
    samples = max(1, min(num_samples, wanted, limit // max(needed.network, 1)))
    least = math.ceil(LEAST_BATCH[kind] / (trial * samples))
    return BatchSizes(samples, least, max(1, limit // (trial * samples)))


def trials_at_once(candidates: int, sizes: BatchSizes, chunks: int) -> int:
    """Trials of each batch of a step that scores so many candidates, whatever ranks there are."""
    for_most_cells, for_fewest_cells = (
        math.ceil(candidates / math.ceil(cells / chunks)) for cells in (MOST_CELLS, FEWEST_CELLS)
    )
    wanted = min(max(sizes.least, for_most_cells), for_fewest_cells)
    return max(1, min(wanted, sizes.most))


@dataclass(frozen=True)
class TrialCosts:
    """What the search of one layer takes.

    Attributes:
        losses: evaluated candidates, of all steps and ranks together.
        macs: multiply-adds of all of them.
        memory_bytes: of each rank at most: of one that has all samples.
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
) -> TrialCosts:
    """What a search by the network's loss takes.

    Args:
        network: recorded.
        layer: to search.
        x: a few samples.
        num_samples: to draw from.
        steps: picks.
        recipe, sampling: of the search.
        threads: batches that a rank works on at once.
    """
    replaced = Replaced(network, layer)
    batch = min(sampling.batch, num_samples)
    losses = 0
    for k in range(1, steps + 1):
        left = layer.num_candidates - (0 if recipe.replacement else k - 1)
        each = 1 if k == 1 or recipe.weights == "uniform" else LINE_SEARCH_LOSSES
        losses += each * min(left, sampling.candidates or left)
    own, shared = replaced.macs(macs_by_module(network, x))
    needed = replaced.bytes_needed(x)
    limit = BATCH_BYTES.get(x.device.type, BATCH_BYTES["cuda"])
    in_work = max(limit, needed.network, needed.trial)
    return TrialCosts(
        losses=losses,
        macs=batch * (losses * own + steps * shared),
        memory_bytes=batch * needed.held + 2 * threads * in_work,
    )
