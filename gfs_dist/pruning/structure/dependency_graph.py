"""torch-pruning's dependency graph of a network, asked for one group of channels at a time."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch_pruning.dependency import Node
from torch_pruning.ops import OPTYPE

from gfs_dist.errors import error_line
from gfs_dist.networks.measure.inputs import Inputs
from gfs_dist.networks.models.layer_kinds import blocks, is_layer
from gfs_dist.pruning.structure.structure import Slice
from gfs_dist.pruning.structure.torch_pruning import Input, copied, limited, splits, trace

CARRIERS = (OPTYPE.BN, OPTYPE.IN, OPTYPE.PRELU, OPTYPE.DEPTHWISE_CONV)
SPLITS = (OPTYPE.SPLIT, OPTYPE.UNBIND, OPTYPE.SLICE, OPTYPE.EXPAND)
MIXERS = (OPTYPE.LN, OPTYPE.GN)
NEVER_CALLED = "never called in the forward pass (unused, or only its weights are read)"


def channels_of(module: nn.Module) -> int:
    """Outputs of a convolution or linear layer, even if its weight is computed from others."""
    sizes = ("out_channels", "out_features", "nf")
    return next(int(getattr(module, size)) for size in sizes if hasattr(module, size))


@dataclass
class ChannelGroup:
    """Modules that depend on the output channels of one module: one candidate a channel.

    Attributes:
        producers: modules that lose outputs, in forward order; carriers and consumers likewise.
        obstacle: why nothing here can be removed; empty if it can.
        added_to: another producer whose outputs are added to these; empty if there is none.
    """

    producers: list[Slice] = field(default_factory=list)
    carriers: list[Slice] = field(default_factory=list)
    consumers: list[Slice] = field(default_factory=list)
    obstacle: str = ""
    added_to: str = ""


class ChannelDependencies:
    """Channel dependencies between modules, found by one forward pass over a copy of the network.

    Args:
        network: any; a copy is traced in evaluation mode with gradients on.
        example: a batch that the network takes.

    Attributes:
        order: convolutions and linear layers in the order of their first calls, then those that
            were never called.

    Raises:
        InputError: the network cannot be copied, refuses the example, or cannot be followed.
    """

    def __init__(self, network: nn.Module, example: Tensor | Inputs) -> None:
        self._network = copied(network)
        self._names = {module: name for name, module in self._network.named_modules()}
        self._users: dict[int, list[str]] = {}
        for module, name in self._names.items():
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(weight.is_floating_point())
                self._users.setdefault(id(weight), []).append(name)
        self._graph, calls = trace(self._network, example)
        self._calls = Counter({self._names[module]: count for module, count in calls.items()})
        names = [*self._calls, *self._names.values()]
        self.order = [name for name in dict.fromkeys(names) if is_layer(self.module(name))]
        self._place = {name: place for place, name in enumerate(self._calls)}

    def module(self, name: str) -> nn.Module:
        return self._network.get_submodule(name)

    def fault(self, name: str) -> str:
        """Why the channels of this module, taken alone, cannot be changed; empty if they can."""
        module = self.module(name)
        if not self._calls[name]:
            return NEVER_CALLED
        if self._calls[name] > 1:
            return "called more than once in a forward pass"
        if is_layer(module) and "weight" not in dict(module.named_parameters(recurse=False)):
            return "its weight is computed from other parameters (parametrization, weight norm)"
        users = [self._users[id(weight)] for weight in module.parameters(recurse=False)]
        others = [user for names in users for user in names if user != name]
        return f"shares its weights with {others[0]!r}" if others else ""

    def _grouped(self, name: str) -> str:
        """A grouped convolution, whose channels do not come and go one by one."""
        module = self.module(name)
        groups, outputs, inputs, *_ = blocks(module).shape if is_layer(module) else (1, 1, 1)
        depthwise = outputs == inputs == 1
        return "" if groups == 1 or depthwise else f"grouped convolution with {groups} groups"

    def channels(self, name: str) -> int:
        """Output channels of a convolution or linear layer."""
        return channels_of(self.module(name))

    def group(self, name: str) -> ChannelGroup:
        """Everything that is coupled to the outputs of the module ``name``."""
        module = self.module(name)
        group = ChannelGroup(obstacle=self.fault(name))
        if group.obstacle or self.channels(name) == 1:
            group.obstacle = group.obstacle or "has only one channel"
            return group
        group.obstacle = self._grouped(name)
        if group.obstacle:
            return group
        if module not in self._graph.module2node:
            group.obstacle = (
                "torch-pruning cannot follow its output to the network's output (no_grad, detach "
                "or numpy on the way)"
            )
            return group
        prune = self._graph.get_pruner_of_module(module).prune_out_channels
        nodes = self._reachable_nodes(module, prune)
        group.obstacle = next(filter(None, map(self._node_obstacle, nodes)), "")
        if group.obstacle:
            return group
        self._find_joined(name, group, nodes)
        try:
            with warnings.catch_warnings(action="ignore"), limited():
                indices = list(range(self.channels(name)))
                items: Any = self._graph.get_pruning_group(module, prune, indices)
        except Exception as error:  # noqa: BLE001 - it guesses, and trips over its guesses
            group.obstacle = f"torch-pruning cannot follow its channels ({error_line(error)})"
            return group
        obstacles = [self._add(group, item, self.channels(name)) for item in items]
        group.obstacle = group.obstacle or next(filter(None, obstacles), "")
        if not group.obstacle and not group.consumers:
            group.obstacle = "torch-pruning found no consumer"
        for slices in (group.producers, group.carriers, group.consumers):
            slices.sort(key=lambda part: self._place[part.module])
        return group

    def _reachable_nodes(self, module: nn.Module, prune: Any) -> list[Node]:
        """Nodes that a removal of outputs can reach, whichever channels are removed.

        torch-pruning's own search, without indices: it ends on every network.
        """
        root = self._graph.module2node[module]
        seen = {(root, prune): None}
        stack = [(root, prune, None)]
        while stack:
            node, handler, origin = stack.pop()
            for dep in node.dependencies:
                aside = node.type == OPTYPE.CONCAT and {origin, dep.target} <= set(node.inputs)
                if aside or not dep.is_triggered_by(handler):
                    continue  # a part of a concatenation leaves the other parts alone
                if (dep.target, dep.handler) not in seen:
                    seen[dep.target, dep.handler] = None
                    stack.append((dep.target, dep.handler, node))
        return list(dict.fromkeys(node for node, _ in seen))

    def _add(self, group: ChannelGroup, item: Any, count: int) -> str:
        """Put one item of torch-pruning's group in its place; says what forbids its removal."""
        node: Node = item.dep.target
        module: Any = node.module
        reads = False
        if node.type in CARRIERS:
            places = group.carriers
        elif node.type in (OPTYPE.CONV, OPTYPE.LINEAR):
            reads = self._graph.is_in_channel_pruning_fn(item.dep.handler)
            places = group.consumers if reads else group.producers
        else:
            return ""
        pruner = self._graph.get_pruner_of_module(module)
        width = (pruner.get_in_channels if reads else pruner.get_out_channels)(module)
        if width is None:  # a PReLU with one weight for all channels
            return ""
        channels: list[list[int]] = [[] for _ in range(count)]
        for root, channel in zip(item.root_idxs, item.idxs, strict=True):
            channels[root].append(channel)
        part = Slice(self._names[module], tuple(tuple(sorted(own)) for own in channels))
        places.append(part)
        return self._slice_obstacle(part, width, reads)

    def _slice_obstacle(self, part: Slice, width: int, reads: bool) -> str:
        fault = self.fault(part.module) or self._grouped(part.module)
        if fault:
            role = "read by" if reads else "tied to"
            return f"its channels are {role} {part.module!r}: {fault}"
        flat = [channel for channels in part.channels for channel in channels]
        apart = len(set(flat)) == len(flat) and all(0 <= channel < width for channel in flat)
        if not apart or len(set(map(len, part.channels))) > 1:
            return (
                f"its channels do not map one to one to those of {part.module!r} (the forward "
                "pass reshapes, reduces or parts them)"
            )
        return ""

    def _node_obstacle(self, node: Node) -> str:
        """Why a node that is neither producer, carrier nor consumer is in the way, if it is."""
        kind, module = node.type, node.module
        if fault := getattr(module, "fault", ""):
            return f"torch-pruning cannot follow an operation that they go through ({fault})"
        if kind == OPTYPE.OUTPUT:
            return "network output"
        if isinstance(module, Input):
            return "its channels are tied to those of the network's input"
        if kind in MIXERS:
            return f"channels are mixed by {type(module).__name__} {self._names[module]!r}"
        if kind == OPTYPE.PARAMETER:
            owner, name = self._owner(module)
            # Stored networks hold tensors of other classes in nn.Module itself.
            if type(owner).__module__.startswith("torch.nn.") and type(owner) is not nn.Module:
                return f"its channels go into {type(owner).__name__} {self._names[owner]!r}"
            return f"its channels are tied to the parameter {name!r}"
        if kind == OPTYPE.EMBED:
            return f"its channels are tied to those of Embedding {self._names[module]!r}"
        if kind == OPTYPE.MHA or isinstance(module, nn.RNNBase):
            return f"its channels go into {type(module).__name__} {self._names[module]!r}"
        if kind in SPLITS and splits(node):
            return "the forward pass splits its channels (chunk, split, slice or expand)"
        return ""

    def _owner(self, parameter: nn.Parameter) -> tuple[nn.Module, str]:
        for module, prefix in self._names.items():
            for name, own in module.named_parameters(prefix, recurse=False):
                if own is parameter:
                    return module, name
        raise AssertionError("torch-pruning knows a parameter that the network does not have")

    def _find_joined(self, name: str, group: ChannelGroup, nodes: Sequence[Node]) -> None:
        """Note the first producer that an operation with several inputs joins to ``name``."""
        for node in nodes:
            # Autograd's name for it: Add, Mul, Relu, ...
            name_of = getattr(node.grad_fn, "name", str)
            operation = name_of().partition("Backward")[0]
            if node.type != OPTYPE.ELEMENTWISE or operation in ("Mul", "Div"):
                continue  # a product is a gate: both factors lose the channel
            branches = [self._source_producers(source) for source in dict.fromkeys(node.inputs)]
            branches = [sources for sources in branches if sources]
            if all(sources == branches[0] for sources in branches):
                continue
            # A producer in the same branch may be a gate: the one that is added is in the other.
            apart = [sources for sources in branches if name not in sources] or branches
            others = set().union(*apart) - {name}
            other = min(others, key=lambda other: self._place[other])
            if operation in ("Add", "Sub"):
                group.added_to = group.added_to or other
            else:
                group.obstacle = f"its channels are combined with those of {other!r} ({operation})"

    def _source_producers(self, node: Node) -> set[str]:
        """Producers whose outputs arrive at a node, through any number of operations."""
        found, seen, stack = set(), set(), [node]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.type in (OPTYPE.CONV, OPTYPE.LINEAR):
                found.add(self._names[node.module])
            else:
                stack += node.inputs
        return found
