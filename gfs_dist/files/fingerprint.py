"""A name for the content of tensors, to notice that data or a checkpoint has changed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 (lower-case hex) over dtype, shape and bytes of each tensor, in order."""
    import torch  # not before it is needed: files that hold no tensors are read without it

    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
