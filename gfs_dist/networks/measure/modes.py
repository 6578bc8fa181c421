"""How a network is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside the block; every module's own mode afterwards.

    Not ``inference_mode``: a tensor that a network keeps from such a call (a cache of positions)
    could never take part in training again.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in training.items():
            module.training = was_training


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter is; the CPU for a network without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """Of the first floating parameter; float32 for a network without any."""
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.float32)
