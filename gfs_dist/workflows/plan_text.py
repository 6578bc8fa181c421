"""The wording of plans: what a job says that it will do, a function for each kind of job.

Every line begins with what it is about: data, network, prune, skip, search, method, training,
budget, repair, streams, ranks, files, time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from gfs_dist.config import commands as schema
from gfs_dist.data import Dataset, DeepData, Texts
from gfs_dist.data.spec import Labelled
from gfs_dist.networks import TwoLayer
from gfs_dist.pruning.memory_needed import layer_costs, rank_bytes
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.repair.stream_training import BATCH
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.pruning.widths.budget import UNITS, Budget, percent
from gfs_dist.pruning.widths.ties import Ties
from gfs_dist.selection.stop import Stop
from gfs_dist.training import DeepSpec, TrainSpec
from gfs_dist.workflows.checkpoints import num_checkpoints
from gfs_dist.workflows.measures import sizes

TIME = "time      told once the first steps are measured"


def two_layer_pruning(
    config: schema.Prune,
    dataset: Dataset,
    network: TwoLayer,
    count: int,
    training: TrainSpec | None,
    rules: Stop,
    method: str,
) -> list[str]:
    """``gfs prune`` of ``count`` checkpoints with two layers, which ``training`` may make."""
    classes = "regression" if dataset.labels_train.is_floating_point() else "two classes"
    checkpoints = "1 checkpoint" if count == 1 else f"{count} checkpoints"
    source = f"{checkpoints} from {config.checkpoint}"
    if training is not None:
        source = (
            f"trained first: {training.iterations:,} iterations of {training.method}, "
            f"lr {training.lr:.4g}, {checkpoints}"
        )
    loss = f"{config.objective} loss, {config.weights} weights"
    if config.objective == "least_squares":
        loss = "squared loss, output weights refitted after each pick"
        source += ", on the squared loss" if training is not None else ""
    ends = []
    if rules.distinct is not None:
        ends.append(f"until {rules.distinct:,} distinct neurons")
    if rules.steps is not None:
        ends.append(f"at most {rules.steps:,} picks")
    elif config.replacement:
        ends.append(f"after {rules.repeats:,} picks new neurons only")
    if config.tolerance is not None:
        ends.append(f"until the loss is within {config.tolerance:g} of the dense one")
    return [
        f"data      {config.data.name}: {len(dataset.pruned_on[0]):,} samples to prune on, "
        f"{_others(dataset)}, {dataset.features:,} inputs, {classes}",
        f"network   two-layer, {network.width:,} {network.activation} neurons; {source}",
        f"search    {loss}, {'with' if config.replacement else 'without'} replacement, "
        f"{'; '.join(ends)}",
        f"method    {method}",
        f"ranks     {config.workers} on runtime={config.runtime.kind}, device={config.device}, "
        f"{config.partition} partition"
        + (f", graph {config.graph}" if config.graph != "none" else ""),
        TIME,
    ]


def deep_pruning(
    config: schema.Prune,
    images: DeepData,
    architecture: dict[str, Any],
    pruner: Pruner,
    places: Sequence[tuple[int, Path | None]],
    budget: Budget,
    num_samples: int,
    training: DeepSpec | None,
    *,
    searched: bool,
) -> list[str]:
    """``gfs prune`` of deep checkpoints, or ``gfs cut``: then they are ``searched`` already."""
    source = config.checkpoint or "its factory"
    costs, count = pruner.costs, "" if len(places) == 1 else f"{len(places)} checkpoints of "
    streams = config.repair.streams
    memory = rank_bytes(pruner, budget, num_samples, config.threads if streams else 0)
    lines = [
        f"data      {config.data.name}: {num_samples:,} calibration {unit(images)} of "
        f"{images.shape}, {_others(images)}, {_judged(images, config)}",
        f"network   {count}{network_words(architecture)} from {source}: "
        f"{costs.dense('params'):,} parameters, {costs.dense('macs'):,} multiply-adds",
        *_layers(pruner.structure),
    ]
    if not searched:
        lines.append(_search(config, pruner, num_samples))
    lines += [
        *(f"budget    {words}" for words in _budget(budget, pruner)),
        f"repair    {', '.join(repairs(config)) or 'none'}",
    ]
    if config.repair.streams:
        lines.append(_streams(config, pruner, num_samples))
    if training is not None:
        lines.append(_training(training, len(images.x_train), config.workers))
    return [
        *lines,
        f"ranks     {config.workers} on runtime={config.runtime.kind}, device={config.device}, "
        f"up to {memory / 2**20:,.0f} MiB each",
        TIME,
    ]


def two_layer_training(
    config: schema.Pretrain | schema.Prune, dataset: Dataset, spec: TrainSpec
) -> list[str]:
    """``gfs pretrain`` of a two-layer network."""
    assert isinstance(config.model, schema.TwoLayer)
    size = config.model.width * (dataset.features + 1) * spec.dtype.itemsize
    measured = "" if config.train.lr is not None else " (from the curvature at the start)"
    batch = "" if spec.method == "gd" else f" of {spec.batch} samples, momentum {spec.momentum:g}"
    return [
        f"data      {config.data.name}: {len(dataset.x_train):,} samples to train on, "
        f"{_others(dataset)}, {dataset.features:,} inputs",
        f"network   two-layer, {config.model.width:,} {config.model.activation} neurons",
        f"training  {config.objective} loss, {spec.iterations:,} iterations of {spec.method}"
        f"{batch}, lr {spec.lr:g}{measured}{', in float32' if spec.precision == 'float32' else ''}",
        _files(spec, size),
    ]


def deep_training(
    config: schema.Pretrain | schema.Finetune, network: nn.Module, images: DeepData, spec: DeepSpec
) -> list[str]:
    """``gfs pretrain`` of a deep network, ``gfs finetune``."""
    size, cost = sum(x.nbytes for x in network.state_dict().values()), sizes(network, images)
    return [
        f"data      {config.data.name}: {len(images.x_train):,} samples of {images.shape} to "
        f"train on, {_others(images)}, {images.num_classes} classes",
        f"network   {cost['params']:,} parameters, {cost['macs']:,} multiply-adds",
        _training(spec, len(images.x_train), config.workers),
        _files(spec, 2 * size),
    ]


def budget_title(budget: Budget) -> str:
    """The budget in a few words, for tables."""
    if budget.kind == "widths":
        return "widths as given"
    of = {
        **UNITS,
        "latency": f"time at batch {budget.batch}",
        "memory": f"memory at batch {budget.batch}",
        "keep": "channels of each layer",
        "tolerance": "top-1 that may be lost at each layer",
    }
    shares = [f"{percent(share)} of the {of[kind]}" for kind, share in budget.shares.items()]
    rounded = f", multiples of {budget.round_to}" if budget.round_to > 1 else ""
    return f"{' and '.join(shares)}{rounded}{', uniform' if budget.uniform else ''}"


def repairs(config: schema.Prune) -> list[str]:
    """The repairs after a cut, in words."""
    asked = config.repair
    words = {
        "counts folded into the consumers": asked.fold and config.objective != "least_squares",
        "least-squares refit": asked.refit,
        "channels picked again on the pruned front": asked.reselect,
        "stream repair": asked.streams,
        "batch norms measured again": asked.batch_norm,
        "fine-tuning": asked.finetune,
    }
    return [said for said, wanted in words.items() if wanted]


def network_words(architecture: dict[str, Any]) -> str:
    """The name of a network's architecture, and its width if that is not the published one."""
    name = architecture.get("factory") or architecture.get("name") or architecture.get("model")
    width = f", width {architecture['width']}" if architecture.get("width") else ""
    return "a network of your own" if name in (None, "graph") else f"{name}{width}"


def _layers(structure: Structure) -> list[str]:
    words = [f"{layer.name} {layer.num_candidates}" for layer in structure.layers]
    reasons: dict[str, list[str]] = {}
    for skip in structure.skipped:
        reasons.setdefault(skip.reason, []).append(f"{skip.name} {skip.channels}")
    total = sum(layer.num_candidates for layer in structure.layers)
    return [
        f"prune     {len(words)} layers, {total:,} channels: {', '.join(words)}",
        *(f"skip      {', '.join(names)}: {reason}" for reason, names in reasons.items()),
    ]


def _search(config: schema.Prune, pruner: Pruner, num_samples: int) -> str:
    steps = "" if config.steps is None else f", at most {config.steps:,} picks a layer"
    cost = ""
    if config.objective == "network_loss":
        found = layer_costs(pruner, num_samples)
        macs = sum(layer.macs for layer in found)
        cost = f"; {sum(layer.losses for layer in found):,} losses, {macs:.2g} multiply-adds"
    return (
        f"search    {config.objective} objective, {config.weights} weights, "
        f"{'with' if config.replacement else 'without'} replacement{steps}{cost}"
    )


def _streams(config: schema.Prune, pruner: Pruner, num_samples: int) -> str:
    """The repair of streams: forward through both networks, and twice that back."""
    steps, batch = config.repair.steps or 0, min(BATCH, num_samples)
    dense, budget = pruner.costs.dense("macs"), config.budget.limit
    share = float(budget.shares.get("macs", 1))
    macs = steps * batch * dense * (1 + 3 * share)
    return (
        f"streams   {steps:,} steps of {batch} calibration images, without labels; "
        f"{'' if 'macs' in budget.shares else 'at most '}{macs:.2g} multiply-adds"
    )


def _budget(budget: Budget, pruner: Pruner) -> list[str]:
    """The budget as numbers of this network, and the least that is possible; a line a limit."""
    if budget.kind == "widths":
        return [f"widths of {len(budget.widths)} layers, as given"]
    costs, least = pruner.costs, pruner.costs.least(budget.round_to)
    words = {
        "keep": "of the channels of each layer",
        "latency": f"of the time of the dense network at batch {budget.batch}: feasible",
        "memory": f"of the memory of the dense network at batch {budget.batch}: feasible",
    } | {
        kind: f"of the {UNITS[kind]}: at most {limit:,} of {costs.dense(kind):,}; feasible, the "
        f"least possible is {costs.of(kind, least):,}"
        for kind, limit in costs.limits(budget).items()
    }
    shares = {kind: percent(share) for kind, share in budget.shares.items()}
    if budget.kind == "tolerance":
        share = shares["tolerance"]
        return [f"top-1 on the calibration images may fall by {share} of itself at each layer"]
    lines = [f"{share} {words[kind]}" for kind, share in shares.items()]
    if budget.uniform:
        layers = pruner.structure.layers
        groups = Counter(Ties.of(layers, uniform=True).groups.values())
        kinds = {layer.name: f"{layer.kind} of {layer.num_candidates}" for layer in layers}
        told = ", ".join(f"{count} times {kinds[name]}" for name, count in groups.items())
        lines.append(f"the same width in all layers of a kind: {told}")
    return lines


def _training(spec: DeepSpec, num_samples: int, workers: int) -> str:
    epochs = spec.iterations / math.ceil(num_samples / spec.batch)
    ranks = f", {workers} ranks" if workers > 1 else ""
    return (
        f"training  {spec.iterations:,} iterations ({epochs:.1f} epochs) of {spec.batch} samples"
        f"{ranks}, lr {spec.lr:g} to 0 (cosine), momentum {spec.momentum:g}, "
        f"weight decay {spec.weight_decay:g}{', bfloat16' if spec.amp else ''}"
    )


def _files(spec: TrainSpec | DeepSpec, num_bytes: int) -> str:
    count = num_checkpoints(spec)
    return f"files     {count} checkpoints, {count * num_bytes / 2**20:.1f} MiB"


def _others(data: Labelled) -> str:
    """DeepData that a network meets in no training and no search."""
    held = "" if data.validation is None else f", {len(data.validation[1]):,} held out"
    return f"{len(data.x_test):,} to test on{held}"


def unit(samples: DeepData) -> str:
    """What samples are called."""
    return "rows" if isinstance(samples, Texts) else "images"


def _judged(samples: DeepData, config: schema.Prune) -> str:
    if isinstance(samples, Texts):
        return f"{config.quality} counts"
    return f"{samples.num_classes} classes"
