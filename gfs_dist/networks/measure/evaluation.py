"""Evaluating a network and leaving it as it was: mode, device, batch size, first NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from gfs_dist.networks.measure.inputs import Inputs, run

BYTES_PER_THREAD = 2**23
"""Of the largest intermediate result, on the CPU: more leaves the caches and takes longer."""

GPU_BYTES = 2**30
"""The same on a GPU; a few such results live at a time."""


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
    """Device of the first parameter; the CPU for a network without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """Dtype of the first floating parameter; float32 for a network without any."""
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.float32)


def run_with_hook(
    model: nn.Module,
    x: Tensor | Inputs | Sequence[Tensor],
    hook: Callable[[str, Any, Any, Any], None],
) -> None:
    """One forward pass in evaluation mode with a forward hook on each module.

    The model is left as it was. Arguments of the hook: name, module, inputs, output.
    """
    handles = [
        module.register_forward_hook(partial(hook, name)) for name, module in model.named_modules()
    ]
    try:
        with evaluating(model):
            run(model, x)
    finally:
        for handle in handles:
            handle.remove()


def first_non_finite(model: nn.Module, x: Tensor | Inputs | Sequence[Tensor]) -> str | None:
    """The first module, in the order they finish, whose output holds NaN or infinity.

    Args:
        model: see :func:`run_with_hook`.
        x: what it is given, on its device.

    Returns:
        Its qualified name (empty: the model itself), or None if all outputs are finite.
    """
    found: list[str] = []

    def check(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(name)

    run_with_hook(model, x, check)
    return found[0] if found else None


def batch_size(model: nn.Module, x: Tensor | Inputs) -> int:
    """Samples at once that fill a GPU, or a thread of the CPU, and not its memory.

    Args:
        model: left as it was.
        x: one sample (1, ...), on the model's device.
    """
    limit = GPU_BYTES if x.is_cuda else BYTES_PER_THREAD
    return max(1, limit // largest_result(model, x))


def largest_result(model: nn.Module, x: Tensor | Inputs) -> int:
    """Bytes of the largest tensor that a forward pass computes, its weights apart."""
    held = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    with evaluating(model), _LargestResult(held, x.nbytes) as results:
        run(model, x)
    return results.num_bytes


class _LargestResult(TorchFunctionMode):
    """Measures the largest tensor that is computed, views of ``held`` storages apart.

    (To dispatch below functions, torch imports its compiler, which takes seconds.)
    """

    def __init__(self, held: set[int], num_bytes: int) -> None:
        super().__init__()
        self.held, self.num_bytes = held, num_bytes

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.held:
                self.num_bytes = max(self.num_bytes, tensor.nbytes)
        return output


def prefer_channels_last(model: nn.Module, x: Tensor | Inputs) -> None:
    """Lay weights out as convolutions are faster, on CPU and GPU, if the model runs so.

    One that uses ``view`` on features does not: it needs the usual order.

    Args:
        x: a few samples, on the model's device.
    """
    if not isinstance(x, Tensor) or x.ndim != 4:
        return
    # torch's types do not know the argument.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with evaluating(model):
        try:
            model(x.contiguous(memory_format=torch.channels_last))
        except RuntimeError:  # an error of the network itself shows again at its first use
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
