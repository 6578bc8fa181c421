"""What is told of a cut: rows of layers, and the hash of what was picked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from gfs_dist.networks import macs_by_module
from gfs_dist.pruning.layerwise.cutting import CutResult
from gfs_dist.pruning.layerwise.pruner import Pruner
from gfs_dist.pruning.layerwise.smaller import prefix_length


def layer_rows(pruner: Pruner, result: CutResult) -> list[dict[str, Any]]:
    """A row for every layer that was pruned or skipped, in forward order.

    ``error`` is the loss of the layer's path at its width, in units of the variance of the stream
    that it feeds; ``macs`` are those of the modules that make its channels.
    """
    macs = macs_by_module(result.network, pruner.example)
    rows: dict[str, dict[str, Any]] = {}
    for layer in pruner.structure.layers:
        found = pruner.paths[layer.name]
        kept = result.widths.get(layer.name, layer.num_candidates)
        k = prefix_length(found.path, kept)
        rows[layer.name] = {
            "name": layer.name,
            "channels": layer.num_candidates,
            "kept": kept,
            "error": found.errors[k - 1],
            "macs": sum(macs.get(part.module, 0) for part in layer.producers),
            "reason": None,
        }
    for skip in pruner.structure.skipped:
        rows[skip.name] = {
            "name": skip.name,
            "channels": skip.channels,
            "kept": skip.channels,
            "error": None,
            "macs": macs.get(skip.name, 0),
            "reason": skip.reason,
        }
    order = list(macs)
    return sorted(rows.values(), key=lambda row: _place(order, row["name"]))


def picks_sha256(pruner: Pruner, widths: Mapping[str, int]) -> str:
    """SHA-256 over the layers' hashes in forward order, joined by commas; a layer's is over the
    picks that its width takes.
    """
    hashes = [
        found.path.prefix(prefix_length(found.path, widths[name])).sha256
        for name, found in pruner.paths.items()
        if name in widths
    ]
    return hashlib.sha256(",".join(hashes).encode()).hexdigest()


def _place(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
