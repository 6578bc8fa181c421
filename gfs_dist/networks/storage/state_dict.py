"""State dicts into networks: every tensor fits, or nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gfs_dist.errors import CheckpointError

COUNTER = "num_batches_tracked"
"""Batch-norm's counter: files of others often lack it, and evaluation does not read it."""


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy a state dict into ``model``, in the model's dtypes.

    Only batch-norm's ``num_batches_tracked`` may be absent, and all but one name of a tensor that
    has several. Nothing is copied if anything differs.

    Args:
        model: modified.
        tensors: by name.
        source: where they come from, for messages.

    Raises:
        CheckpointError: a tensor is missing, too many, of another shape, of another kind of dtype
            or not finite; names ``source`` and the first that differs, in the model's order.
    """
    expected = model.state_dict()
    unknown = [name for name in tensors if name not in expected]
    given = {own.data_ptr() for name, own in expected.items() if name in tensors}
    for name, own in expected.items():
        if name in tensors:
            _check(name, tensors[name], own, source)
        elif name.rpartition(".")[2] != COUNTER and own.data_ptr() not in given:
            instead = f" (it has {unknown[0]!r} instead)" if unknown else ""
            raise CheckpointError(f"{source}: tensor {name!r}: missing{instead}")
    if unknown:
        raise CheckpointError(f"{source}: tensor {unknown[0]!r}: the network has no such tensor")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not torch.equal(expected[name], tensor.to(expected[name])):
                expected[name].copy_(tensor)


def _check(name: str, found: Tensor, own: Tensor, source: Path | str) -> None:
    if found.shape != own.shape:
        raise CheckpointError(
            f"{source}: tensor {name!r}: found {tuple(found.shape)}, accepted {tuple(own.shape)}"
        )
    kinds = [(t.is_floating_point(), t.is_complex()) for t in (found, own)]
    if kinds[0] != kinds[1]:
        raise CheckpointError(
            f"{source}: tensor {name!r}: found {found.dtype}, accepted {own.dtype}"
        )
    cast = found.to(own.dtype)
    exact = not any(kinds[0])  # whole numbers and truth values stay themselves or are refused
    wrong = cast.to(found.dtype) != found if exact else ~torch.isfinite(cast)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        accepted = f", accepted {own.dtype}" if exact else ""
        raise CheckpointError(
            f"{source}: tensor {name!r} is {found[index].item()} at index {index}{accepted}"
        )
