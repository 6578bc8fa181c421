"""Training images shifted and mirrored at random, a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PADDING_SHARE = 8


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
