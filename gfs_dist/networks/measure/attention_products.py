"""Multiply-adds of products of two activations: queries with keys, shares with values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gfs_dist.networks.measure.evaluation import evaluating
from gfs_dist.networks.measure.inputs import Batch, run


def products_by_module(model: nn.Module, example: Batch) -> dict[str, int]:
    """Multiply-adds of products of two activations for all inputs, by the module that does it.

    With T tokens, h heads of d channels, attention costs ``2 h d T^2`` for a sequence, causal
    or not. Counted are matrix products (``matmul``, ``bmm``, ``baddbmm``, ``einsum``) neither of
    whose factors is a parameter or buffer, and torch's functions of attention. The model runs once,
    in evaluation mode, and is left as it was.
    """
    held = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    inside: list[str] = []
    names = dict(model.named_modules())
    handles = [
        handle
        for name, module in names.items()
        for handle in (
            module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)),
            module.register_forward_hook(lambda *_: _leave(inside)),
        )
    ]
    counter = _Products(held, inside)
    try:
        with evaluating(model), counter:
            run(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return counter.totals


def _leave(inside: list[str]) -> None:
    inside.pop()


class _Products(TorchFunctionMode):
    def __init__(self, held: set[int], inside: list[str]) -> None:
        super().__init__()
        self.held, self.inside = held, inside
        self.totals: dict[str, int] = {}

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _COSTS:
            given = [*args, *(kwargs or {}).values()]
            tensors = [t for t in given if isinstance(t, Tensor)]
            if func is torch.einsum and len(tensors) < 2:
                tensors = list(args[1])
            first = 0 if func in _FUNCTIONS else len(tensors) - 2  # baddbmm adds to a third
            factors = tensors[first : first + 2]
            if not any(t.untyped_storage().data_ptr() in self.held for t in factors):
                name = self.inside[-1] if self.inside else ""
                macs = _COSTS[func](given, tensors, output)
                self.totals[name] = self.totals.get(name, 0) + macs
        return output


def _matmul(_given: Sequence[Any], tensors: Sequence[Tensor], output: Tensor) -> int:
    return output.numel() * tensors[-2].shape[-1]


def _rmatmul(_given: Sequence[Any], tensors: Sequence[Tensor], output: Tensor) -> int:
    return output.numel() * tensors[-1].shape[-1]


def _einsum(given: Sequence[Any], tensors: Sequence[Tensor], output: Tensor) -> int:
    """Every number of the result takes as many as both factors have in the letters it lacks."""
    terms, arrow, result = given[0].replace(" ", "").partition("->")
    one, other = (term.replace("...", "") for term in (*terms.split(","), "")[:2])
    shared = [c for c in one if c in other and not (arrow and c in result)]
    letters = terms.split(",")[0].partition("...")
    sizes = dict(zip(reversed(letters[2] or letters[0]), reversed(tensors[0].shape), strict=False))
    sizes |= dict(zip(letters[0], tensors[0].shape, strict=False))
    return output.numel() * math.prod(sizes[c] for c in shared)


def _attention(_given: Sequence[Any], tensors: Sequence[Tensor], output: Tensor) -> int:
    """Of ``scaled_dot_product_attention``: every query meets every key, every weight a value."""
    query, key, *_ = tensors
    return (query.numel() + output.numel()) * key.shape[-2]


def _multi_head(_given: Sequence[Any], tensors: Sequence[Tensor], _output: Any) -> int:
    """Of ``multi_head_attention_forward``, which is given (tokens, samples, channels)."""
    query, key, *_ = tensors
    return 2 * query.numel() * key.shape[0]


_FUNCTIONS = (
    functional.scaled_dot_product_attention,
    functional.multi_head_attention_forward,
)
_COSTS: dict[Any, Callable[[Sequence[Any], Sequence[Tensor], Any], int]] = {
    **dict.fromkeys(
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm), _matmul
    ),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), _matmul),
    Tensor.__rmatmul__: _rmatmul,
    torch.einsum: _einsum,
    functional.scaled_dot_product_attention: _attention,
    functional.multi_head_attention_forward: _multi_head,
}
