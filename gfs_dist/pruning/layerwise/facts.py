"""What is told of a cut: rows of layers, and the hash of what was picked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from gfs_dist.networks import macs_by_module
from gfs_dist.networks.graph_network import GraphNetwork
from gfs_dist.pruning.layerwise.pruner import Pruner


def layer_rows(
    pruner: Pruner, small: GraphNetwork, widths: Mapping[str, int]
) -> list[dict[str, Any]]:
    """A row for every layer that could be pruned or was skipped, in forward order.

    ``error`` is the loss of the layer's path at its width, in units of the variance of the stream
    that it feeds; ``macs`` are those of the modules that make its channels.
    """
    example, structure = pruner.example, pruner.structure
    macs = macs_by_module(small, example)
    rows = []
    for layer in structure.layers:
        kept = widths[layer.name]
        error = pruner.paths[layer.name].curve[kept - 1]
        own = sum(macs.get(part.module, 0) for part in layer.producers)
        rows.append(_row(layer.name, layer.num_candidates, kept, error, own, None))
    for skip in structure.skipped:
        own = macs.get(skip.name, 0)
        rows.append(_row(skip.name, skip.channels, skip.channels, None, own, skip.reason))
    order = {step.target: place for place, step in reversed([*enumerate(small.gfs_program)])}
    return sorted(rows, key=lambda row: order.get(row["name"], len(order)))


def _row(
    name: str, channels: int, kept: int, error: float | None, macs: int, reason: str | None
) -> dict[str, Any]:
    return {
        "name": name,
        "channels": channels,
        "kept": kept,
        "error": error,
        "macs": macs,
        "reason": reason,
    }


def picks_sha256(pruner: Pruner) -> str:
    """SHA-256 over the hashes of all layers' picks, in forward order, joined by commas."""
    hashes = [found.path.sha256 for found in pruner.paths.values()]
    return hashlib.sha256(",".join(hashes).encode()).hexdigest()
