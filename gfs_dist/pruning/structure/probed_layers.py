"""Layers of a network as probing finds them: sets of channels that have to go together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.networks.measure.inputs import Inputs
from gfs_dist.networks.models.layer_kinds import (
    blocks,
    is_layer,
    num_groups,
    num_inputs,
    num_outputs,
)
from gfs_dist.pruning.calibration.layer_sites import fittable
from gfs_dist.pruning.structure.probing import (
    MIXED,
    NONE,
    OUTPUT,
    Probe,
    Readers,
    is_depthwise,
)
from gfs_dist.pruning.structure.structure import Count, Layer, Slice

PARTS = (2, 3, 4)
"""Equal parts into which a layer's outputs may be split: gates, chunks, queries and keys."""

UNEVEN = "its channels do not go together in equal sets"

Edges = dict[str, list[tuple[int, ...]]]
"""By module, the outputs of a producer that each of its channels depends on."""


class Candidates:
    """Sets of channels that are joined (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}

    def find(self, node: Any) -> Any:
        """The node that stands for a set."""
        parent = self._parent.setdefault(node, node)
        while parent != self._parent[parent]:
            parent = self._parent[parent]
        self._parent[node] = parent
        return parent

    def join(self, nodes: Sequence[Any]) -> None:
        """Make one set of those of several nodes."""
        for node in nodes[1:]:
            self._parent[self.find(node)] = self.find(nodes[0])


class Prober:
    """Layers of a network that probing finds.

    Args:
        network: a copy for :class:`Probe`.
        model: the network itself, for its weights.
        faults: why the channels of a module, taken alone, cannot be changed.
        coupled: layers whose outputs are added may go together.
    """

    def __init__(
        self,
        network: nn.Module,
        model: nn.Module,
        example: Tensor | Inputs,
        fault: Callable[[str], str],
        *,
        coupled: bool,
    ) -> None:
        self.model, self.fault, self.coupled = model, fault, coupled
        self.whole = {
            name
            for name, module in network.named_modules()
            if is_layer(module) and _goes_whole(module)
        }
        self.probe = Probe(network, example, self.whole)
        self._touched: dict[str, dict[str, Tensor]] = {}
        self._edges: dict[str, Edges | str] = {}

    def module(self, name: str) -> nn.Module:
        return self.model.get_submodule(name)

    def layer(self, name: str, parts: int = 1) -> Layer | str:
        """The layer of a producer, or why there is none.

        Args:
            parts: equal parts of its outputs from which as many channels are to go.
        """
        if fault := self._fault(name):
            return fault
        if name not in self.probe.layers:
            return "goes with whole groups of channels of the layer that it reads"
        producers = self._joined(name)
        if isinstance(producers, str):
            return producers
        sets = Candidates()
        reads: dict[str, list[bool]] = {}
        for producer in producers:
            edges = self._edges_of(producer)
            if isinstance(edges, str):
                return edges
            for reader, sources in edges.items():
                for channel, outputs in enumerate(sources):
                    sets.join([(reader, channel), *((producer, i) for i in outputs)])
                reads.setdefault(reader, [False] * len(sources))
                reads[reader] = [a or bool(b) for a, b in zip(reads[reader], sources, strict=True)]
        if obstacle := self._reader_obstacle(reads):
            return obstacle
        self._tie(sets, producers, reads, parts)
        return self._made(sets, producers, reads)

    def _fault(self, name: str) -> str:
        return "" if name in self.whole else self.fault(name)

    def _joined(self, name: str) -> list[str] | str:
        """The producers whose channels are joined with those of ``name``: gates, and summands."""
        group, queue = [name], [name]
        while queue:
            producer = queue.pop()
            for other in self.probe.layers:
                if other in group or not self._meets(producer, other):
                    continue
                if fault := self._fault(other):
                    return f"its channels are tied to {other!r}: {fault}"
                if not self.coupled and self._is_added(producer, other):
                    return (
                        f"its channels are added to those of {other!r}: residual width "
                        "(coupled=true prunes these)"
                    )
                group.append(other)
                queue.append(other)
        return sorted(group, key=self.probe.layers.index)

    def _meets(self, one: str, other: str) -> bool:
        mine, others = self.touched(one), self.touched(other)
        return any(bool((mine[name] & others[name]).any()) for name in mine.keys() & others.keys())

    def touched(self, name: str) -> dict[str, Tensor]:
        """Who notices a layer's outputs."""
        if name not in self._touched:
            every = torch.ones(num_outputs(self.module(name)), dtype=torch.bool)
            self._touched[name] = self.probe.touched(name, every)
        return self._touched[name]

    def _is_added(self, one: str, other: str) -> bool:
        """Whether each is noticed without the other where both arrive: not in a product."""
        return self._is_noticed_without(one, other) and self._is_noticed_without(other, one)

    def _is_noticed_without(self, silent: str, other: str) -> bool:
        mine, others = self.touched(silent), self.touched(other)
        on_the_way = [name for name in mine if name not in (*others, *self.probe.layers)]
        alone = self.probe.without([silent, *on_the_way], other)
        return any(
            bool((mine[name] & alone[name]).any())
            for name in mine.keys() & alone.keys()
            if name in self.probe.layers or name.startswith(OUTPUT)
        )

    def _edges_of(self, name: str) -> Edges | str:
        """By module the outputs of a layer that each of its channels depends on."""
        if name not in self._edges:
            self._edges[name] = self._find_edges(name)
        return self._edges[name]

    def _find_edges(self, name: str) -> Edges | str:
        count, touched = num_outputs(self.module(name)), self.touched(name)
        numbers, mixer = torch.arange(count), ""
        for size in (1, *self._block_sizes(name)):
            whole = [tuple(range(i, i + size)) for i in range(0, count, size)]
            found = self.probe.readers(name, numbers // size, touched)
            mixed = [reader for reader, own in found.items() if (own == MIXED).any()]
            if not mixed:
                return _merged([found], whole)
            mixer = mixer or mixed[0]
        for parts in PARTS:
            owners = [
                torch.where(numbers * parts // count == p, numbers, NONE) for p in range(parts)
            ]
            found_each = []
            for own in owners if count % parts == 0 and count > parts else ():
                found = self.probe.readers(name, own, self.probe.touched(name, own >= 0))
                if any((one == MIXED).any() for one in found.values()):
                    break
                found_each.append(found)
            if len(found_each) == parts:
                return _merged(found_each, [(i,) for i in range(count)])
        if mixer.startswith(OUTPUT):
            return "network output"
        return f"channels are mixed on the way to {type(self.module(mixer)).__name__} {mixer!r}"

    def _block_sizes(self, name: str) -> list[int]:
        """Sizes of runs of channels that may belong together.

        Those that group norms and grouped convolutions behind the layer mix; and as many as there
        are for each channel of a reader, where a reshape makes pixels of channels.
        """
        count, sizes = num_outputs(self.module(name)), set()
        for reader, noticed in self.touched(name).items():
            if not reader.startswith(OUTPUT):
                module: Any = self.module(reader)
                groups = getattr(module, "num_groups", 0) or getattr(module, "groups", 0)
                sizes |= {count // n for n in (groups, int(noticed.sum())) if n and count % n == 0}
        return sorted(sizes - {0, 1, count})

    def _reader_obstacle(self, reads: dict[str, list[bool]]) -> str:
        for reader in reads:
            if reader.startswith(OUTPUT):
                return "network output"
            if fault := self._fault(reader):
                return f"its channels are read by {reader!r}: {fault}"
            module = self.module(reader)
            carries = (
                reader in self.whole or is_depthwise(module) or _is_cut_along(module, reads[reader])
            )
            if reader not in self.probe.layers and not carries and not _is_shared(module):
                return f"its channels go into {type(module).__name__} {reader!r}"
        if not any(reader in self.probe.layers for reader in reads):
            return "nothing that can be fitted reads its channels"
        return ""

    def _tie(
        self, sets: Candidates, producers: list[str], reads: dict[str, list[bool]], parts: int
    ) -> None:
        """Join channels of equal rank in each group of grouped convolutions, or in each part."""
        for name in producers:
            split = num_groups(self.module(name)) if parts == 1 else parts
            self._tie_ranks(sets, name, num_outputs(self.module(name)), split)
        for name in reads:
            if name in self.probe.layers:
                module = self.module(name)
                self._tie_ranks(sets, name, num_inputs(module), num_groups(module))

    def _tie_ranks(self, sets: Candidates, name: str, width: int, split: int) -> None:
        if split == 1 or width % split:
            return
        size = width // split
        for rank in range(size):
            sets.join([(name, part * size + rank) for part in range(split)])

    def _made(
        self, sets: Candidates, producers: list[str], reads: dict[str, list[bool]]
    ) -> Layer | str:
        numbers: dict[Any, int] = {}
        for i in range(num_outputs(self.module(producers[0]))):
            numbers.setdefault(sets.find((producers[0], i)), len(numbers))

        def part(name: str, width: int, taken: Sequence[bool] | None = None) -> Slice | None:
            own: list[list[int]] = [[] for _ in numbers]
            for channel in range(width):
                if taken is None or taken[channel]:
                    candidate = numbers.get(sets.find((name, channel)))
                    if candidate is None:
                        return None
                    own[candidate].append(channel)
            return Slice(name, tuple(map(tuple, own)))

        made = [part(name, num_outputs(self.module(name))) for name in producers]
        read = [part(name, len(taken), taken) for name, taken in reads.items()]
        slices = [one for one in (*made, *read) if one is not None]
        even = all(len({len(own) for own in one.channels}) == 1 for one in slices)
        if len(slices) < len(made) + len(read) or not even or len(numbers) < 2:
            return UNEVEN
        carriers = [one for one in slices[len(made) :] if one.module not in self.probe.layers]
        carriers = [one for one in carriers if not _is_shared(self.module(one.module))]
        consumers = [one for one in slices[len(made) :] if one.module in self.probe.layers]
        counts = tuple(
            Count(
                one.module,
                "num_groups",
                len(one.channels[0]) * norm.num_groups // norm.num_channels,
            )
            for one in carriers
            if isinstance(norm := self.module(one.module), nn.GroupNorm)
        )
        kind = "groups" if any(one.module in self.whole for one in carriers) else "channels"
        return Layer(
            producers[0],
            len(numbers),
            tuple(slices[: len(made)]),
            tuple(carriers),
            tuple(consumers),
            kind,
            counts,
        )


def _goes_whole(module: nn.Module) -> bool:
    """Whether a grouped convolution has more groups than channels in each, or cannot be fitted."""
    groups, outputs, inputs, *_ = blocks(module).shape
    many = groups >= max(inputs, outputs) or not fittable(module)
    return groups > 1 and inputs > 1 and many


def _is_cut_along(module: nn.Module, channels: Sequence[bool]) -> bool:
    """Whether a norm or the like has a weight for each channel, by which it can be cut."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.shape == (len(channels),)


def _is_shared(module: nn.Module) -> bool:
    """Whether its few parameters serve all channels."""
    return all(parameter.numel() == 1 for parameter in module.parameters(recurse=False))


def _merged(found: Sequence[Readers], outputs: Sequence[tuple[int, ...]]) -> Edges:
    """By module and channel, the outputs that it depends on in any of several answers."""
    total: Edges = {}
    for readers in found:
        for name, owners in readers.items():
            own = total.setdefault(name, [()] * len(owners))
            for channel, owner in enumerate(owners.tolist()):
                if owner >= 0:
                    own[channel] = (*own[channel], *outputs[owner])
    return total
