"""torch-pruning's dependency graph of a network, with the sizes that it would otherwise guess."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch_pruning import ops
from torch_pruning.dependency import Node, index_mapping
from torch_pruning.ops import OPTYPE
from torch_pruning.pruner import function

from gfs_dist.errors import InputError

Mapping = Callable[[list[Any]], list[Any]]
"""From torch-pruning's indices of one node to those of its neighbour."""


def copied(network: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode.

    Raises:
        InputError: it cannot be copied, is TorchScript, or has lazy layers that never ran.
    """
    name = type(network).__name__
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError(f"network {name}: TorchScript; give the module that it was made from")
    if any(map(is_lazy, network.parameters())):
        raise InputError(f"network {name}: it has lazy layers without weights; run it once")
    try:
        return copy.deepcopy(network).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"network {name}: it cannot be copied ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """An error as one line: its kind and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    """All tensors in a network's output: a tensor, or lists and dictionaries of outputs."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        yield from tensors_of(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for part in outputs:
            yield from tensors_of(part)


def trace(network: nn.Module, example: Tensor) -> Any:
    """The dependency graph of a copy whose parameters require gradients.

    Returns:
        torch_pruning.DependencyGraph. Its nodes are modules of ``network``, operations, an
        :class:`Input`, and an output node for each tensor that comes out.

    Raises:
        InputError: the network refuses the example, or nothing in its output has a gradient.
    """
    graph = torch_pruning.DependencyGraph()
    graph.REGISTERED_PRUNERS |= dict.fromkeys((OPTYPE.RESHAPE, OPTYPE.ELEMENTWISE), _Sized())
    sizes = _Sizes()
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            module.register_forward_hook(_close)
    with torch.enable_grad(), warnings.catch_warnings(), sizes:
        warnings.simplefilter("ignore")
        graph.build_dependency(
            _Traced(network),
            example,
            forward_fn=lambda traced, x: traced(x),
            customized_pruners={Input: _InputPruner(), nn.GRU: _Sized(), nn.RNN: _Sized()},
            verbose=False,
        )
        _drop_dead_ends(list(graph.module2node.values()))
        _set_sizes(graph, sizes.shapes)
    return graph


def splits(node: Node) -> bool:
    """Whether a chunk, split, slice or expand parts the channels (not pixels or positions)."""
    kinds = (
        index_mapping._SplitIndexMapping,  # noqa: SLF001 - no other sign tells what is parted
        index_mapping._SliceIndexMapping,  # noqa: SLF001
        index_mapping._GQAIndexMapping,  # noqa: SLF001
    )
    return any(isinstance(way, kinds) for dep in node.dependencies for way in dep.index_mapping)


class Input(nn.Module):
    """Makes the network's input a node of the graph: what is added to it must not shrink."""

    channels = 0

    def forward(self, x: Tensor) -> Tensor:
        self.channels = x.shape[1] if x.dim() > 1 else 1
        return x.clone().requires_grad_(x.is_floating_point()).clone()


class _InputPruner(function.BasePruningFunc):
    """What torch-pruning asks of a kind of module; the input is only asked for its channels."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise AssertionError("a group that reaches the input is never removed")

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        return layer.channels

    get_in_channels = get_out_channels


class _Sized(ops.DummyPruner):
    """Operations whose output's channels are known; torch-pruning follows its graph for others."""

    def get_out_channels(self, layer: Any) -> int | None:
        return getattr(layer, "channels", None)


class _Closed(torch.autograd.Function):
    """One node in place of all steps of a recurrent module, none of which can lose channels."""

    @staticmethod
    def forward(_ctx: Any, _x: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
        return tuple(result.clone() for result in results)


def _close(_module: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Any, Any]) -> Any:
    if not isinstance(inputs[0], Tensor):  # a packed sequence is traced step by step
        return outputs
    steps, *state = _Closed.apply(inputs[0], *(out.detach() for out in tensors_of(outputs)))
    return steps, (tuple(state) if isinstance(outputs[1], tuple) else state[0])


class _Traced(nn.Module):
    """The network with a node in front for its input and one behind for each of its outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.input, self.network = Input(), network

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.input(x)
        name = type(self.network).__name__
        try:
            outputs = self.network(x)
        except Exception as error:
            raise InputError(
                f"network {name}: its forward pass refuses an input of shape {tuple(x.shape)}, "
                f"{x.dtype} ({first_line(error)})"
            ) from error
        tensors = [out.clone() for out in tensors_of(outputs) if out.requires_grad]
        if not tensors:
            raise InputError(
                f"network {name}: no gradient leads from its output to its weights, so that "
                "torch-pruning cannot follow it: take no_grad, detach and numpy out of its forward"
            )
        return tensors


class _Sizes(TorchFunctionMode):
    """Notes the shape of every result, by the node that autograd makes for it."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[Any, torch.Size] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.grad_fn is not None:
            self.shapes[out.grad_fn] = out.shape
        return out


def _drop_dead_ends(nodes: list[Node]) -> None:
    """Forget operations on weights alone (a linear layer's transpose): no channels flow there.

    torch-pruning takes a channel count from any input of a node, from these too.
    """
    kinds = (OPTYPE.ELEMENTWISE, OPTYPE.RESHAPE, OPTYPE.EXPAND)
    dead = [node for node in nodes if node.type in kinds and not node.inputs]
    while dead:
        node = dead.pop()
        for reader in dict.fromkeys(node.outputs):
            reader.inputs = [other for other in reader.inputs if other is not node]
            reader.dependencies = [dep for dep in reader.dependencies if dep.target is not node]
            if reader.type in kinds and not reader.inputs:
                dead.append(reader)


def _set_sizes(graph: Any, shapes: dict[Any, torch.Size]) -> None:
    """Say which channels a flatten and a padding of channels make of which: their sizes are known.

    torch-pruning's own guesses start anew from there, at once and again for every group.
    """
    for node in graph.module2node.values():
        for dep in node.dependencies:
            dep.index_mapping = [None, None]
        if node.type == OPTYPE.CONCAT:
            node.module.concat_sizes = None
    for node in graph.module2node.values():
        source = node.inputs[0] if len(node.inputs) == 1 else node
        before = tuple(shapes.get(source.grad_fn, ()))
        after = tuple(shapes.get(node.grad_fn, ()))
        padding = getattr(node.grad_fn, "_saved_pad", ())[2 * (len(before) - 2) :]
        if (
            node.type == OPTYPE.RESHAPE
            and len(before) > 2
            and after == (before[0], math.prod(before[1:]))
        ):
            node.type = OPTYPE.ELEMENTWISE  # torch-pruning leaves its mapping alone then
            stride = after[1] // before[1]
            _connect(source, node, partial(_spread, stride), partial(_gather, stride))
        elif len(padding) > 1 and any(padding[:2]):
            ahead = partial(_shift, padding[0], after[1])
            _connect(source, node, ahead, partial(_shift, -padding[0], before[1]))
        else:
            continue
        node.module.channels = after[1]
    index_mapping.update_index_mapping(graph)


def _connect(source: Node, node: Node, ahead: Mapping, back: Mapping) -> None:
    """How channels of ``source`` become channels of the operation ``node``, and back."""
    for start, end, mapping in ((source, node, ahead), (node, source, back)):
        for dep in start.dependencies:
            if dep.target is end:
                dep.index_mapping[0] = mapping


def _shift(offset: int, width: int, indices: list[Any]) -> list[Any]:
    moved = [index._replace(idx=index.idx + offset) for index in indices]
    return [index for index in moved if 0 <= index.idx < width]


def _spread(stride: int, indices: list[Any]) -> list[Any]:
    return [index._replace(idx=index.idx * stride + i) for index in indices for i in range(stride)]


def _gather(stride: int, indices: list[Any]) -> list[Any]:
    return list(dict.fromkeys(index._replace(idx=index.idx // stride) for index in indices))
