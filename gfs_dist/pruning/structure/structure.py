"""The prunable structure of a network: plain data that names modules and channels, no tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """One module's channels that go with the candidates of a layer.

    Attributes:
        module: qualified name in the network.
        channels: for each candidate the indices in this module: output channels of a producer,
            channels of a carrier, input channels (after a flatten: features) of a consumer.
    """

    module: str
    channels: tuple[tuple[int, ...], ...]

    def of(self, candidates: list[int]) -> list[int]:
        """Channels of several candidates, sorted."""
        return sorted(channel for candidate in candidates for channel in self.channels[candidate])


@dataclass(frozen=True)
class Count:
    """A whole number that a module keeps of its sizes, and that falls with every candidate.

    Attributes:
        module: qualified name in the network, empty for the network itself.
        attribute: of the module; after a point, of an object that the module holds (``config.x``).
        each: by how much it falls for one candidate.
    """

    module: str
    attribute: str
    each: int


@dataclass(frozen=True)
class Layer:
    """One set of candidates: channels or hidden units that can be removed one by one.

    Attributes:
        name: the first producer in forward order; names the layer in reports, paths and widths.
        num_candidates: at least 2.
        producers: convolutions, linear layers and embeddings that lose outputs.
        carriers: norms, depthwise convolutions and PReLUs in between: they lose the same channels.
        consumers: convolutions and linear layers that lose inputs.
        kind: what a candidate is: ``channels``; ``ffn``, a neuron of a feed-forward block;
            ``heads`` of attention; ``kv_groups``, a head of keys and values with all queries that
            share it; ``groups`` of a grouped convolution.
        counts: numbers that the code of modules reads, and that fall too.
    """

    name: str
    num_candidates: int
    producers: tuple[Slice, ...]
    carriers: tuple[Slice, ...]
    consumers: tuple[Slice, ...]
    kind: str = "channels"
    counts: tuple[Count, ...] = ()

    @property
    def cut_slices(self) -> tuple[Slice, ...]:
        """Producers and carriers: all modules that lose outputs."""
        return (*self.producers, *self.carriers)

    @property
    def cut_modules(self) -> set[str]:
        return {part.module for part in self.cut_slices}


@dataclass(frozen=True)
class Skipped:
    """A convolution or linear layer whose outputs stay, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Structure:
    """All convolutions and linear layers of a network: in a layer, or skipped.

    Attributes:
        layers: in forward order of their first producers.
        skipped: in forward order; those that never run come last.
    """

    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
