"""What is told of a cut: rows of layers, the hash of what was picked, what no cut removes."""

from __future__ import annotations

import hashlib
import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from gfs_dist.networks import macs_by_module
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.widths.budget import UNITS

MOST_TOLD, LEAST_TOLD, REASON = 3, 0.01, 160
"""Modules that :func:`what_stays` names, the share that is worth it, and characters of a reason."""


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


def what_stays(pruner: Pruner, kind: str, least: Mapping[str, int]) -> str:
    """What of the smallest network cannot be removed and why, the most expensive first.

    Args:
        pruner: with the structure of the dense network.
        kind: of the cost, ``macs`` or ``params``.
        least: smallest allowed width of each layer.

    Returns:
        in words a few modules with their shares of the dense network's cost; empty where none has
        a share worth telling.
    """
    small = pruner.cut(KeptChannels({name: tuple(range(width)) for name, width in least.items()}))
    costs = Counter(macs_by_module(small, pruner.example) if kind == "macs" else _params(small))
    reasons = {skip.name: skip.reason for skip in pruner.structure.skipped}
    for layer in pruner.structure.layers:
        whole = least[layer.name] == layer.num_candidates
        reason = f"{layer.num_candidates} channels, kept by budget.round_to" if whole else ""
        reasons |= {part.module: reason for part in (*layer.producers, *layer.carriers)}
    modules = dict(small.named_modules())
    told = []
    for name, cost in costs.most_common():
        share = cost / pruner.costs.dense(kind)
        kind_of = type(modules.get(name, small))
        reason = f"{kind_of.__name__}, which is no convolution or linear layer"
        if kind_of in (nn.Module, GraphNetwork):  # what merely holds layers
            reason = "parameters outside of layers"
        reason = reasons.get(name, reason)
        if reason and share >= LEAST_TOLD:
            told.append(f"{name!r} keeps {share:.1%} ({textwrap.shorten(reason, REASON)})")
    more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    words = ", ".join(told[:MOST_TOLD] + more)
    return f"of the {UNITS[kind]} {words}" if told else ""


def _params(network: nn.Module) -> Counter[str]:
    """Parameters by the module that has them; those of the network itself by their own names."""
    found: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        found[name.rpartition(".")[0] or name] += parameter.numel()
    return found
