"""Comparing two networks to the last bit: copies that compute alike, outputs, differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.networks.graph.tensors import copied, named_tensors


@torch.no_grad()
def plain_copy(network: nn.Module) -> nn.Module:
    """A copy on the CPU, evaluating, its tensors laid out as a file has them.

    How numbers lie in memory decides which kernel multiplies them, and so the last bits.
    """
    copy = copied(network).cpu().eval()
    for tensor in {id(tensor): tensor for tensor in named_tensors(copy).values()}.values():
        tensor.data = contiguous_copy(tensor)
        tensor.grad = None
    for module in copy.modules():  # tensors that are plain attributes do not move with the others
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, contiguous_copy(value))
    return copy


def inputs_of(example: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Inputs of ``forward`` from an example, which is a tensor or several."""
    return [contiguous_copy(x) for x in ([example] if isinstance(example, Tensor) else example)]


def contiguous_copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


@torch.no_grad()
def outputs_of(network: nn.Module, inputs: Sequence[Tensor]) -> list[Any]:
    """Every tensor or other value in its output, from a fixed state of the random generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _leaves(network(*(tensor.clone() for tensor in inputs)))


def difference(wanted: list[Any], found: list[Any]) -> str | None:
    """What differs first between two networks' :func:`outputs_of`; None if nothing does."""
    if len(wanted) != len(found):
        return f"gives {len(found)} outputs in place of {len(wanted)}"
    for number, (first, second) in enumerate(zip(wanted, found, strict=True)):
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            if first.dtype != second.dtype or not torch.equal(first, second):
                return f"gives other numbers in output {number}"
        elif type(first) is not type(second) or first != second:
            return f"gives {str(second)[:60]} in place of {str(first)[:60]} in output {number}"
    return None


def _leaves(output: Any) -> list[Any]:
    """Tensors and other values in an output, with the keys of dicts."""
    if isinstance(output, dict):
        return [leaf for key, value in output.items() for leaf in (key, *_leaves(value))]
    if isinstance(output, list | tuple):
        return [leaf for value in output for leaf in _leaves(value)]
    return [output]
