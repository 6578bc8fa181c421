"""Comparing two networks to the last bit: copies that compute alike, outputs, differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.networks.graph.tensors import copied, named_tensors
from gfs_dist.networks.measure.inputs import Inputs, Slot, run


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


Given = list[Tensor] | Inputs
"""What a network is called with: tensors by position, or inputs of another form."""


def inputs_of(example: Tensor | Sequence[Tensor] | Inputs) -> Given:
    """Copies of an example: a tensor, several, or inputs, by position wherever that is possible."""
    if isinstance(example, Inputs):
        form = example.form
        template = form.template if form and not form.call and not form.images else None
        slots = template if isinstance(template, tuple) else (template,)
        if not all(isinstance(slot, Slot) for slot in slots):
            return example.each(contiguous_copy)
        example = [example.tensors[slot.name] for slot in slots]
    return [contiguous_copy(x) for x in ([example] if isinstance(example, Tensor) else example)]


def contiguous_copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


@torch.no_grad()
def outputs_of(network: nn.Module, inputs: Given) -> list[Any]:
    """Every tensor or other value in its output, from a fixed state of the random generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = inputs.clone() if isinstance(inputs, Inputs) else [x.clone() for x in inputs]
        return _leaves(run(network, fresh))


def first_row(inputs: Given) -> Given:
    """The first sample."""
    return inputs[:1] if isinstance(inputs, Inputs) else [x[:1] for x in inputs]


def difference(wanted: list[Any], found: list[Any]) -> str | None:
    """What differs first between two networks' :func:`outputs_of`; None if nothing does."""
    if len(wanted) != len(found):
        return f"gives {len(found)} outputs in place of {len(wanted)}"
    for number, (first, second) in enumerate(zip(wanted, found, strict=True)):
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            if first.dtype != second.dtype or not torch.equal(first, second):
                return f"gives other numbers in output {number}"
        elif type(first) is not type(second) or (first != second and _has_value(type(first))):
            return f"gives {str(second)[:60]} in place of {str(first)[:60]} in output {number}"
    return None


def _leaves(output: Any) -> list[Any]:
    """Tensors and other values in an output, with the keys of dicts."""
    if isinstance(output, dict):
        return [leaf for key, value in output.items() for leaf in (key, *_leaves(value))]
    if isinstance(output, list | tuple):
        return [leaf for value in output for leaf in _leaves(value)]
    return [output]


def _has_value(kind: Any) -> bool:
    """Whether two objects can be equal at all; caches, for one, cannot."""
    return kind.__eq__ is not object.__eq__
