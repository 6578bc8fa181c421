"""How samples go through a network that is only evaluated: how many at once, laid out how."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gfs_dist.networks.measure.modes import evaluating

BYTES_PER_THREAD = 2**23
"""Of the largest intermediate result, on the CPU: more leaves the caches and takes longer."""

GPU_BYTES = 2**30
"""The same on a GPU; a few such results live at a time."""


def batch_size(model: nn.Module, x: Tensor) -> int:
    """Samples at once that fill the machine and not its memory.

    Args:
        model: left as it was.
        x: one sample (1, ...), where the model is.
    """
    held = {tensor.untyped_storage().data_ptr() for tensor in _tensors(model)}
    with evaluating(model), _LargestResult(held, x.nbytes) as results:
        model(x)
    limit = GPU_BYTES if x.is_cuda else BYTES_PER_THREAD * torch.get_num_threads()
    return max(1, limit // results.num_bytes)


def prefer_channels_last(model: nn.Module, x: Tensor) -> None:
    """Lay weights out as convolutions are faster, on CPU and GPU, if the model runs so.

    One that uses ``view`` on features does not: it needs the usual order.

    Args:
        x: a few samples, where the model is.
    """
    if x.ndim != 4:
        return
    # torch's types do not know the argument.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with evaluating(model):
        try:
            model(x.contiguous(memory_format=torch.channels_last))
        except RuntimeError:  # what is wrong in either order shows in the first step
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class _LargestResult(TorchDispatchMode):
    """Notes the size of the largest tensor that is made, views of ``held`` storages apart."""

    def __init__(self, held: set[int], num_bytes: int) -> None:
        super().__init__()
        self.held, self.num_bytes = held, num_bytes

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.held:
                self.num_bytes = max(self.num_bytes, tensor.nbytes)
        return made


def _tensors(model: nn.Module) -> itertools.chain[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())
