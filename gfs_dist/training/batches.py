"""The samples of a mini-batch and their augmentation, drawn from seed and iteration alone."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SEED_FACTOR = 1_000_003
PADDING_SHARE = 8


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


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut each image at random out of itself with a black border, and mirror every other one.

    The border is an eighth of the side: 4 pixels of 32, the usual crop of CIFAR-10. Each of the
    ``(2 p + 1)^2`` positions is as likely as any other, and so are left and right.

    Args:
        images: (m, C, H, W), of any dtype, not normalised: the border is 0.
        generator: of this batch, on the CPU; ``3 m`` numbers are drawn from it.

    Returns:
        Images of the same shape, dtype and device.
    """
    num_images, channels, height, width = images.shape
    above, beside = height // PADDING_SHARE, width // PADDING_SHARE
    top = torch.randint(2 * above + 1, (num_images, 1), generator=generator)
    left = torch.randint(2 * beside + 1, (num_images, 1), generator=generator)
    mirrored = torch.randint(2, (num_images, 1), generator=generator).bool()
    across = torch.arange(width)
    rows = (top + torch.arange(height)).to(images.device)
    columns = (left + torch.where(mirrored, across.flip(0), across)).to(images.device)
    padded = functional.pad(images, (beside, beside, above, above))
    image = torch.arange(num_images, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def paste_rectangles(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cover a rectangle of about half of the images with that of another image.

    Sides are uniform between one pixel and the whole image, places uniform among those where the
    rectangle fits; the other image is that of a random order of all.

    Args:
        images: (m, C, H, W), of any dtype.
        generator: of this batch, on the CPU; ``6 m`` numbers are drawn from it.

    Returns:
        Images of the same shape, dtype and device.

    Source: Yun et al. 2019, arXiv 1905.04899.
    """
    num_images = len(images)
    other = torch.randperm(num_images, generator=generator)
    inside = torch.rand(num_images, generator=generator)[:, None, None] < 0.5
    for axis, size in enumerate(images.shape[2:]):
        length, start = torch.rand(2, num_images, 1, generator=generator)
        length = 1 + (length * size).floor()
        first = (start * (size - length + 1)).floor()
        place = torch.arange(size)
        along = (place >= first) & (place < first + length)
        inside = inside & along.unsqueeze(2 - axis)
    return torch.where(inside[:, None].to(images.device), images[other.to(images.device)], images)
