"""Where numbers stop being numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.networks.measure.modes import evaluating


def first_non_finite(model: nn.Module, *inputs: Tensor) -> str | None:
    """The first module, in the order they finish, whose output holds NaN or infinity.

    Args:
        model: runs once in evaluation mode and is left as it was.
        inputs: what it takes, on its device.

    Returns:
        Its qualified name (empty: the model itself), or None if all outputs are finite.
    """
    found: list[str] = []

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return note

    handles = [module.register_forward_hook(noting(name)) for name, module in model.named_modules()]
    try:
        with evaluating(model):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
