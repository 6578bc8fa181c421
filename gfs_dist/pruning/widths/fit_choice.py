"""Which rule of fits suits a network: measured on samples that no fit has seen.

Each rule cuts the network to the same widths, fits it on three quarters of the samples, and is
judged by ``sum |z - y|^2 / sum |z|^2`` of its outputs on the others. First the targets are
compared, then, with the best of them, how closely weights keep to the dense ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gfs_dist.networks.measure.evaluation import device_of, evaluating
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.repair.fit_rule import FitRule
from gfs_dist.pruning.widths.fitted_front import compared
from gfs_dist.pruning.widths.width_trial import squares

FIRST = 1e-2
TARGETS = ("stream", "blend", "own")
STRONGER, WEAKER = (1e-1, 3e-1, 1.0), (1e-3, 1e-4)
"""Dampings, tried in this order as long as they help."""

APART = 4
"""Every fourth chunk is set aside; with fewer, the samples are too few for that."""


def choose_fit_rule(
    pruner: Pruner, widths: Mapping[str, int]
) -> tuple[FitRule, list[dict[str, Any]]]:
    """The rule of least loss, and all that were compared.

    Args:
        pruner: with the paths of all layers.
        widths: at which rules are compared.
    """
    if pruner.workspace.num_chunks < APART:
        return FitRule(damping=FIRST), []
    rows: list[dict[str, Any]] = []

    def measure(target: str, damping: float) -> float:
        loss = _loss(pruner, widths, FitRule(target, damping), f"rule_{len(rows)}")
        rows.append({"target": target, "damping": damping, "loss": loss})
        return loss

    losses = {target: measure(target, FIRST) for target in TARGETS}
    target = min(losses, key=losses.__getitem__)
    for dampings in (STRONGER, WEAKER):
        least = losses[target]
        for damping in dampings:
            if (loss := measure(target, damping)) > least:
                break
            least = loss
        if least < losses[target]:
            break
    best = min(rows, key=lambda row: row["loss"])
    return FitRule(best["target"], best["damping"]), rows


def _loss(pruner: Pruner, widths: Mapping[str, int], rule: FitRule, name: str) -> float:
    """Of the network fitted by a rule on the first samples, on the others."""
    work, dense = pruner.workspace, pruner.dense
    others = range(APART - 1, work.num_chunks, APART)  # from all over: batches may be sorted
    fitted = [chunk for chunk in range(work.num_chunks) if chunk not in others]
    kept = pruner.keep(widths, fold=False)
    small, _ = pruner.refit(kept, name, rule=rule, chunks=fitted)
    apart = whole = 0.0
    with evaluating(small), evaluating(dense), torch.no_grad():
        for chunk in others:
            x = work.x(chunk).to(device_of(dense))
            for both in zip(compared(dense(x), x), compared(small(x), x), strict=True):
                difference, square = squares(*both)
                apart, whole = apart + difference, whole + square
    return apart / (whole or 1.0)
