"""How many trials go through a network at once, and what a search by trials costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from gfs_dist.networks.graph_network import GraphNetwork
from gfs_dist.networks.sizes import macs_by_module
from gfs_dist.pruning.layerwise.replaced import Replaced
from gfs_dist.pruning.layerwise.sampling import Sampling
from gfs_dist.pruning.structure import Layer
from gfs_dist.selection.build import Recipe

BATCH_BYTES = {"cpu": 2**26, "cuda": 2**30}
"""What the results of one batch may take at once. Constants, not shares of what is free: rounding
depends on the size of a batch, and every machine has to find the same losses."""

SAMPLE_PARTS = 8
"""Chunks of a mini-batch at least, where it has as many samples: ranks that have whole chunks run
others' samples neither up to the layer nor through it."""

CELLS_PER_STEP = 32
"""Pairs of a chunk and a batch of trials, about, where there are as many: ranks divide those of a
step."""

LINE_SEARCH_LOSSES = 3


def batch_sizes(layer: Replaced, x: Tensor, num_samples: int, device: str) -> tuple[int, int]:
    """Samples of a chunk, and the most trials of a batch of one chunk, by the layer's shapes alone.

    As many samples as keep the whole network within :data:`BATCH_BYTES`, then as many trials as
    keep what comes after the layer within it.

    Args:
        layer: to search.
        x: a few samples.
        num_samples: of the mini-batch.
        device: type of the one that computes.
    """
    limit = BATCH_BYTES.get(device, BATCH_BYTES["cuda"])
    needed = layer.bytes_needed(x[:2])
    most = num_samples // SAMPLE_PARTS
    samples = max(1, min(most, limit // max(needed.network, 1)))
    return samples, max(1, limit // max(needed.trial * samples, 1))


def trials_at_once(candidates: int, most: int, chunks: int) -> int:
    """Trials of each batch of a step that scores so many candidates, whatever ranks there are."""
    batches = math.ceil(CELLS_PER_STEP / chunks)
    return max(1, min(most, math.ceil(candidates / batches)))


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
