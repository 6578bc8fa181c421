"""Heads of attention, neurons of feed-forward blocks: found from influences between linear layers.

Outputs that reach the same inputs of the next linear layers go together. With ordinary attention
the outputs of queries, keys and values of one head reach the inputs of the output projection that
belong to it; with grouped queries, a group shares its keys; in a gated block, a neuron has a row of
each of two layers. How a module lays them out, fused or not, shows in the places alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gfs_dist.networks.models.layer_kinds import num_inputs, num_outputs, reads_features
from gfs_dist.pruning.structure.influences import Influences
from gfs_dist.pruning.structure.structure import Layer, Slice

ROUNDS = 4
"""From one input to all that belongs to a candidate: grouped queries need three."""

MAX_FACTORS = 3
"""Producers of a neuron: more are summands of a residual stream."""


@dataclass
class Component:
    """What belongs to the candidate that holds the first input of a layer.

    Attributes:
        cluster: layers that read what others of the cluster read too.
        rows: bool, outputs of producers.
        columns: bool, inputs of consumers; at first the one.
        closed: nothing else belongs to it.
    """

    cluster: frozenset[str]
    columns: dict[str, Tensor]
    rows: dict[str, Tensor] = field(default_factory=dict)
    closed: bool = False

    @property
    def is_whole(self) -> bool:
        return all(bool(own.all()) for own in (*self.rows.values(), *self.columns.values()))


def find_units(influences: Influences) -> tuple[list[Layer], dict[str, str]]:
    """Layers among linear layers and embeddings, and why others are none.

    They are not verified, and have no counts yet. What is in neither of the two is not understood.

    Returns:
        Layers in the order of their first producers, and reasons by module.
    """
    layers: list[Layer] = []
    reasons = {name: fault for name in influences.layers if (fault := _fault(influences, name))}
    clusters = _clusters(influences)
    seen: set[str] = set()
    while starts := [left[0] for own in clusters if (left := [n for n in own if n not in seen])]:
        homes = {name: frozenset(own) for own in clusters for name in own}
        components = [Component(homes[n], {n: _first(influences, n)}) for n in starts]
        _close(influences, components)
        single = _products(influences, components)
        for start, component in zip(starts, components, strict=True):
            seen |= {start, *component.columns}
            if component.closed and component.is_whole:
                reason = f"its channels are mixed on the way to {start!r} (a norm, or the like)"
                linear = [n for n in component.rows if reads_features(influences.layers[n])]
                reasons = dict.fromkeys(linear, reason) | reasons
            elif component.closed and start in single:
                layers += _layers(influences, component)
    for name, rows in influences.sources().items():
        reasons.setdefault(name, "network output")
        if bool(rows.any()):
            layers = [layer for layer in layers if name not in layer.cut_modules]
    faulty = [
        layer
        for layer in layers
        if any(_fault(influences, part.module) for part in (*layer.producers, *layer.consumers))
    ]
    order = list(influences.layers)
    sound = [layer for layer in layers if layer not in faulty]
    return sorted(sound, key=lambda layer: order.index(layer.name)), reasons


def _fault(influences: Influences, name: str) -> str:
    """Why a layer alone cannot be changed; empty if it can."""
    if influences.calls[name] > 1:
        return "called more than once in a forward pass"
    own = dict(influences.layers[name].named_parameters(recurse=False))
    if "weight" not in own:
        return "its weight is computed from other parameters (parametrization, weight norm)"
    others = [owner for weight in own.values() for owner in influences.owners[id(weight)]]
    shared = [other for other in others if other != name]
    return f"shares its weights with {shared[0]!r}" if shared else ""


def _clusters(influences: Influences) -> list[list[str]]:
    """Linear layers that read outputs of layers, those with common sources together."""
    clusters: list[tuple[set[str], list[str]]] = []
    for name, layer in influences.layers.items():
        if name not in influences.inputs or not reads_features(layer):
            continue
        sources = set(influences.sources({name: ~_first(influences, name, False)}))
        if not sources:
            continue
        joined = [cluster for cluster in clusters if cluster[0] & sources]
        clusters = [cluster for cluster in clusters if not cluster[0] & sources]
        readers = [reader for _, own in joined for reader in own]
        clusters.append((sources.union(*(own for own, _ in joined)), [*readers, name]))
    return [readers for _, readers in clusters]


def _first(influences: Influences, reader: str, value: bool = True) -> Tensor:
    width = influences.inputs[reader].shape[1]
    columns = torch.zeros(width, dtype=torch.bool, device=influences.inputs[reader].device)
    columns[0] = value
    return columns


def _close(influences: Influences, components: list[Component]) -> None:
    """Add whatever shares outputs or inputs with a component, until nothing is left.

    All components at once: none has a layer with another in common.
    """
    for _ in range(ROUNDS):
        changes: dict[str, Tensor] = {}
        for component in components:
            component.rows = influences.sources(component.columns)
            if all(influences.calls[name] == 1 for name in component.rows):
                changes |= component.rows
        reached = influences.reached(changes)
        for component in components:
            found = {n: reached[n] for n in component.cluster if bool(reached[n].any())}
            before = component.columns
            component.closed = found.keys() == before.keys() and all(
                torch.equal(found[name], before[name]) for name in found
            )
            component.columns = before | found
        if all(component.closed for component in components):
            return


def _products(influences: Influences, components: list[Component]) -> set[str]:
    """Consumers of components in which no outputs are added: those are residual widths.

    In a product of two outputs the input is zero where one of them is.
    """
    found = {
        name
        for component in components
        if len(component.rows) == 1 or _inputs_each(component) > 1
        for name in component.columns
    }
    for place in range(MAX_FACTORS):
        silent = {}
        for component in components:
            if place < len(component.rows) <= MAX_FACTORS:
                name = list(component.rows)[place]
                silent[name] = component.rows[name]
        zero = influences.silenced(silent)
        for component in components:
            if all(bool(zero[name][own].all()) for name, own in component.columns.items()):
                found |= component.columns.keys()
    return found


def _inputs_each(component: Component) -> int:
    """Inputs of a candidate in each consumer."""
    return max(int(own.sum()) for own in component.columns.values())


def _layers(influences: Influences, component: Component) -> list[Layer]:
    """The layer whose first candidate a component is; none if it is of another kind.

    The other candidates lie behind it, each run of channels behind the one before.
    """
    readers = [influences.layers[name] for name in component.columns]
    writers = [influences.layers[name] for name in component.rows]
    linear = all(map(reads_features, readers)) and all(
        reads_features(writer) or isinstance(writer, nn.Embedding) for writer in writers
    )
    counts = {len(own) // int(own.sum()) for own in component.columns.values()}
    if not linear or len(counts) > 1 or (count := counts.pop()) < 2:
        return []
    producers = [_slice(name, own, count) for name, own in component.rows.items()]
    consumers = [_slice(name, own, count) for name, own in component.columns.items()]
    for part in (*producers, *consumers):
        flat = [channel for own in part.channels for channel in own]
        rows = component.rows if part in producers else component.columns
        if len(set(flat)) < len(flat) or max(flat) >= len(rows[part.module]):
            return []
    order = list(influences.layers)
    producers.sort(key=lambda part: order.index(part.module))
    consumers.sort(key=lambda part: order.index(part.module))
    first = next((p for p in producers if reads_features(influences.layers[p.module])), None)
    if first is None:
        return []
    producers.remove(first)
    kind = _kind(influences, component)
    return [Layer(first.module, count, (first, *producers), (), tuple(consumers), kind)]


def _runs(places: Tensor) -> list[tuple[int, int]]:
    """Starts and lengths of what is true."""
    edges = torch.diff(places.int(), prepend=places.new_zeros(1).int()).nonzero().flatten()
    ends = [*edges.tolist(), len(places)][: 2 * int((edges.numel() + 1) // 2)]
    return [(start, stop - start) for start, stop in zip(ends[::2], ends[1::2], strict=True)]


def _slice(name: str, places: Tensor, count: int) -> Slice:
    runs = _runs(places)
    channels = (
        tuple(i for start, size in runs for i in range(start + c * size, start + c * size + size))
        for c in range(count)
    )
    return Slice(name, tuple(channels))


def group_size(component_rows: Iterable[Tensor], inputs_each: int) -> int:
    """Query heads of a KV group."""
    runs = [size for places in component_rows for _, size in _runs(places)]
    if len(runs) == 1:  # queries, keys and values of a group in one run: (G + 2) d of G d
        return 2 * inputs_each // max(1, runs[0] - inputs_each)
    return max(1, inputs_each // min(runs))


def _kind(influences: Influences, component: Component) -> str:
    each = _inputs_each(component)
    if each > 1:
        rows = [own for n, own in component.rows.items() if reads_features(influences.layers[n])]
        return "kv_groups" if group_size(rows, each) > 1 else "heads"
    (reader, *_), (writer, *_) = component.columns, component.rows
    wide, narrow = influences.layers[writer], influences.layers[reader]
    back = reads_features(wide) and num_inputs(wide) == num_outputs(narrow)
    return "ffn" if back else "channels"
