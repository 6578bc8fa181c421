"""What is about to be done to a deep network, and what was done, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfs_dist.config import commands as schema
from gfs_dist.pruning.memory_needed import layer_costs, rank_bytes
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.pruning.widths.budget import UNITS, Budget, percent
from gfs_dist.workflows.deep_run import training_line, tuning_spec
from gfs_dist.workflows.measures import Measures

REPAIRS = {
    "fold": "counts folded into the consumers",
    "refit": "least-squares refit",
    "batch_norm": "batch norms measured again",
    "finetune": "fine-tuning",
}


def inputs(
    config: schema.Prune,
    measures: Measures,
    architecture: dict[str, Any],
    pruner: Pruner,
    places: list[tuple[int, Path]],
) -> list[str]:
    """Data and networks."""
    images, costs = measures.images, pruner.costs
    shape = " x ".join(str(size) for size in images.x_train.shape[1:])
    count = "" if len(places) == 1 else f"{len(places)} checkpoints of "
    return [
        f"data      {config.data.name}: {len(measures.rows):,} calibration images of {shape}, "
        f"{len(images.x_test):,} to test on, {images.num_classes} classes",
        f"network   {count}{network_words(architecture)} from {config.checkpoint}: "
        f"{costs.dense('params'):,} parameters, {costs.dense('macs'):,} multiply-adds",
    ]


def layers(structure: Structure) -> list[str]:
    """Layers with their channels; the others by the reason why they stay."""
    words = [f"{layer.name} {layer.num_candidates}" for layer in structure.layers]
    reasons: dict[str, list[str]] = {}
    for skip in structure.skipped:
        reasons.setdefault(skip.reason, []).append(f"{skip.name} {skip.channels}")
    total = sum(layer.num_candidates for layer in structure.layers)
    return [
        f"prune     {len(words)} layers, {total:,} channels: {', '.join(words)}",
        *(f"skip      {', '.join(names)}: {reason}" for reason, names in reasons.items()),
    ]


def search(config: schema.Prune, measures: Measures, pruner: Pruner) -> str:
    """How layers are searched."""
    steps = "" if config.steps is None else f", at most {config.steps:,} picks a layer"
    cost = ""
    if config.objective == "network_loss":
        found = layer_costs(pruner, len(measures.rows))
        macs = sum(layer.macs for layer in found)
        cost = f"; {sum(layer.losses for layer in found):,} losses, {macs:.2g} multiply-adds"
    return (
        f"search    {config.objective} objective, {config.weights} weights, "
        f"{'with' if config.replacement else 'without'} replacement{steps}{cost}"
    )


def work(config: schema.Prune, budget: Budget, pruner: Pruner, measures: Measures) -> list[str]:
    """Budget, repairs, ranks."""
    tuning = []
    if config.repair.finetune:
        spec, num_samples = tuning_spec(config), len(measures.images.x_train)
        tuning = [training_line(spec, num_samples, config.workers)]
    memory = rank_bytes(pruner, budget, len(measures.rows))
    return [
        f"budget    {budget_words(budget, pruner)}",
        f"repair    {', '.join(repairs(config)) or 'none'}",
        *tuning,
        f"ranks     {config.workers} on runtime={config.runtime.kind}, device={config.device}, "
        f"up to {memory / 2**20:,.0f} MiB each",
    ]


def budget_words(budget: Budget, pruner: Pruner) -> str:
    """What the budget comes to in this network, and the least that could be had."""
    if budget.kind == "widths":
        return f"widths of {len(budget.widths)} layers, as given"
    share = percent(budget.share)
    if budget.kind == "keep":
        return f"{share} of the channels of each layer"
    if budget.kind == "tolerance":
        return f"top-1 on the calibration images may fall by {share} of itself at each layer"
    if budget.kind == "latency":
        return f"{share} of the time of the dense network at batch {budget.batch}: feasible"
    costs = pruner.costs
    least = costs.of(budget.kind, costs.least(budget.round_to))
    return (
        f"{share} of the {UNITS[budget.kind]}: at most {costs.limit(budget):,} of "
        f"{costs.dense(budget.kind):,}; feasible, the least to be had is {least:,}"
    )


def budget_title(budget: Budget) -> str:
    """The budget in a few words."""
    if budget.kind == "widths":
        return "widths as given"
    share = percent(budget.share)
    what = {
        **UNITS,
        "latency": f"time at batch {budget.batch}",
        "keep": "channels of each layer",
        "tolerance": "top-1 that may be lost at each layer",
    }[budget.kind]
    rounded = f", multiples of {budget.round_to}" if budget.round_to > 1 else ""
    return f"{share} of the {what}{rounded}"


def repairs(config: schema.Prune) -> list[str]:
    """What is mended, in words."""
    asked = vars(config.repair)
    if config.objective == "least_squares":
        asked = {**asked, "fold": False}  # its picks count nothing
    return [words for key, words in REPAIRS.items() if asked[key]]


def network_words(architecture: dict[str, Any]) -> str:
    """What a network is called."""
    name = architecture.get("factory") or architecture.get("model")
    return "a network of your own" if name in (None, "graph") else str(name)
