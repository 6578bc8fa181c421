"""Adaptor of torch-pruning: its dependency graph, with the sizes that it would otherwise guess."""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch_pruning import ops
from torch_pruning.dependency import Node, index_mapping, shape_infer
from torch_pruning.dependency import graph as group_search
from torch_pruning.ops import OPTYPE
from torch_pruning.pruner import function

from gfs_dist.errors import InputError, error_line
from gfs_dist.networks.measure.inputs import Inputs, described, run, tensors_of

MAPPINGS: dict[OPTYPE, Callable[[Any, Node], None]] = {
    OPTYPE.CONCAT: index_mapping.update_concat_index_mapping,
    OPTYPE.SPLIT: index_mapping.update_split_index_mapping,
    OPTYPE.RESHAPE: index_mapping.update_reshape_index_mapping,
    OPTYPE.UNBIND: index_mapping.update_unbind_index_mapping,
    OPTYPE.EXPAND: index_mapping.update_expand_index_mapping,
    OPTYPE.SLICE: index_mapping.update_slice_index_mapping,
}
"""How torch-pruning finds which channels an operation makes of which."""

MAX_WORK = 5_000_000
"""Channels that are passed on, and comparisons with earlier ones, for one group: half a second."""


def kind_of(network: nn.Module) -> str:
    """The name of its class, or of the user's inside."""
    return type(getattr(network, "gfs_root", network)).__name__


Mapping = Callable[[list[Any]], list[Any]]
"""From torch-pruning's indices of one node to those of its neighbour."""


def copied(network: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode.

    Raises:
        InputError: it cannot be copied, is TorchScript, or has lazy layers that never ran.
    """
    name = kind_of(network)
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError(f"network {name}: TorchScript; give the module that it was made from")
    if any(map(is_lazy, network.parameters())):
        raise InputError(f"network {name}: it has lazy layers without weights; run it once")
    try:
        return copy.deepcopy(network).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"network {name}: it cannot be copied ({error_line(error)})") from error


def trace(network: nn.Module, example: Tensor | Inputs) -> tuple[Any, Counter[nn.Module]]:
    """The dependency graph of a copy whose parameters require gradients, and calls of modules.

    Args:
        network: the copy.
        example: a batch.

    Returns:
        torch_pruning.DependencyGraph, whose nodes are modules of ``network``, operations, an
        :class:`Input`, and an output node for each tensor that comes out; and how often each
        module is called in a forward pass, in the order of the first calls.

    Raises:
        InputError: the network refuses the example, or nothing in its output has a gradient.
    """
    calls: Counter[nn.Module] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda module, _: calls.update([module]))
        for module in network.modules()
    ]
    with torch.enable_grad(), warnings.catch_warnings(action="ignore"):
        _Traced(network)(example)
    for hook in hooks:
        hook.remove()
    sizes = _ShapeRecorder()
    graph = _Graph(sizes.shapes)
    untied = [module for module in network.modules() if calls[module] > 1 and _is_untied(module)]
    for module in network.modules():
        if isinstance(module, nn.RNNBase) or module in untied:
            module.register_forward_hook(_close, with_kwargs=True)
    with torch.enable_grad(), warnings.catch_warnings(action="ignore"), sizes:
        try:
            graph.build_dependency(
                _Traced(network),
                example,
                forward_fn=lambda traced, x: traced(x),
                ignored_layers=untied,
                customized_pruners={Input: _InputPruner(), nn.GRU: _Sized(), nn.RNN: _Sized()},
                verbose=False,
            )
        except InputError:
            raise
        except Exception as error:  # it guesses, and trips over its guesses
            name = kind_of(network)
            raise InputError(
                f"network {name}: torch-pruning cannot follow it ({error_line(error)})"
            ) from error
    return graph, calls


def _is_untied(module: nn.Module) -> bool:
    """Whether it is a PReLU or norm without a number for each channel.

    torch-pruning would take all its calls for one node, and tie layers that have nothing in common.
    """
    kinds = (ops.TORCH_PRELU, ops.TORCH_BATCHNORM, ops.TORCH_INSTANCENORM)
    return isinstance(module, kinds) and all(t.numel() == 1 for t in module.state_dict().values())


def splits(node: Node) -> bool:
    """Whether a chunk, split, slice or expand parts the channels (not pixels or positions)."""
    kinds = (
        index_mapping._SplitIndexMapping,  # noqa: SLF001 - nothing else tells which axis is split
        index_mapping._SliceIndexMapping,  # noqa: SLF001
        index_mapping._GQAIndexMapping,  # noqa: SLF001
    )
    return any(isinstance(way, kinds) for dep in node.dependencies for way in dep.index_mapping)


class Input(nn.Module):
    """Makes the network's input a node of the graph: channels added to it must not shrink."""

    channels = 0

    def forward(self, x: Tensor) -> Tensor:
        self.channels = x.shape[1] if x.dim() > 1 else 1
        return x.clone().requires_grad_(x.is_floating_point()).clone()


class _InputPruner(function.BasePruningFunc):
    """torch-pruning's interface to a kind of module; only the input's channels are asked for."""

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
    """One node for a call of a module: all steps of a recurrent one, or one that ties nothing."""

    @staticmethod
    def forward(_ctx: Any, _x: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
        return tuple(result.clone() for result in results)


def _close(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
    x, *_ = (*args, *kwargs.values())
    if not isinstance(x, Tensor):  # a packed sequence is traced step by step
        return outputs
    steps, *state = _Closed.apply(x, *(out.detach() for out in tensors_of(outputs)))
    if isinstance(outputs, Tensor):
        return steps.clone()  # an operation of torch, whose size is recorded
    return steps, (tuple(state) if isinstance(outputs[1], tuple) else state[0])


class _Traced(nn.Module):
    """The network with a node in front for its input and one behind for each of its outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.input, self.network = Input(), network

    def forward(self, x: Tensor | Inputs) -> list[Tensor]:
        x = x.each(self.input) if isinstance(x, Inputs) else self.input(x)
        name = kind_of(self.network)
        try:
            outputs = run(self.network, x)
        except Exception as error:
            raise InputError(
                f"network {name}: its forward pass refuses an input of {described(x)} "
                f"({error_line(error)})"
            ) from error
        tensors = [out.clone() for out in tensors_of(outputs) if out.requires_grad]
        if not tensors:
            raise InputError(
                f"network {name}: no gradient leads from its output to its weights, so that "
                "torch-pruning cannot follow it: take no_grad, detach and numpy out of its forward"
            )
        return tensors


class _Graph(torch_pruning.DependencyGraph):
    """torch-pruning's graph, with the sizes that are known in place before it guesses others.

    Args:
        shapes: of results, by the node that autograd makes for each; filled while it is built.
    """

    def __init__(self, shapes: dict[Any, torch.Size]) -> None:
        super().__init__()
        self.REGISTERED_PRUNERS |= dict.fromkeys((OPTYPE.RESHAPE, OPTYPE.ELEMENTWISE), _Sized())
        self._shapes = shapes

    def _build_dependency(self, module2node: dict[nn.Module, Node]) -> None:
        super()._build_dependency(module2node)
        _drop_dead_ends(list(module2node.values()))
        shape_infer.init_shape_information(self)
        _set_sizes(self, self._shapes)


@contextmanager
def limited() -> Iterator[None]:
    """Inside the block, groups that do not end are given up, after the same work on any machine.

    torch-pruning follows channels once more whenever they arrive in another order; with rotary
    embeddings or several residual blocks that has no end.

    Raises:
        InputError: a group took more than :data:`MAX_WORK`.
    """
    own, group_search.Group = group_search.Group, _LimitedGroup
    try:
        yield
    finally:
        group_search.Group = own


class _LimitedGroup(group_search.Group):
    """A group of dependencies that counts the channels that are followed."""

    work = 0

    def add_dep(self, dep: Any, idxs: Any) -> None:
        self.work += len(self) + len(idxs)
        if self.work > MAX_WORK:
            raise InputError(f"given up after {MAX_WORK:,} steps")
        super().add_dep(dep, idxs)


class _ShapeRecorder(TorchFunctionMode):
    """Records the shape of every result, by the node that autograd makes for it."""

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
    for node in graph.module2node.values():
        try:
            if node.type in MAPPINGS:
                MAPPINGS[node.type](graph, node)
        except Exception as error:  # noqa: BLE001 - see :func:`trace`
            node.type = OPTYPE.ELEMENTWISE  # torch-pruning leaves its mapping alone then
            node.module.fault = error_line(error)


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
