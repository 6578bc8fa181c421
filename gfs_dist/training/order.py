"""Which samples a step sees, drawn from seed and position alone: nothing of it has to be stored."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

SEED_FACTOR = 1_000_003


def batch_rows(num_samples: int, batch: int, iteration: int, seed: int) -> Tensor:
    """Rows of one mini-batch: a new order every epoch, drawn from seed and epoch alone.

    The last batch of an epoch is kept, smaller if it has to be.

    Args:
        num_samples: m.
        batch: samples of a mini-batch.
        iteration: steps taken before.
        seed: of the order.

    Returns:
        int64 (batch,), or fewer at the end of an epoch.
    """
    epoch, position = divmod(iteration, math.ceil(num_samples / batch))
    return _epoch_order(num_samples, epoch, seed)[position * batch : (position + 1) * batch]


@functools.lru_cache(maxsize=1)
def _epoch_order(num_samples: int, epoch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * SEED_FACTOR + epoch) % 2**63)
    return torch.randperm(num_samples, generator=generator)


def mixed_seed(seed: int, *position: int) -> int:
    """A seed for the random numbers of one place (iteration, rank, ...), unlike any other's.

    Torch's CPU generator takes 32 bits of a seed, so that sums of seed and place would coincide.
    """
    return int(np.random.SeedSequence((seed, *position)).generate_state(1)[0])
