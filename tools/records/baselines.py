"""Channel scores of torch-pruning, and what they keep within a limit on multiply-adds.

Its importance classes with their defaults on its own groups. Two of them are given their best
form: the Hessian score gets the mean of squared gradients over all samples (the class's own
accumulation looks a parameter up by its name, never finds it, and keeps the last sample alone),
and one channel of every layer always stays.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional
from torch_pruning.pruner import importance

from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.pruning.widths.allocate import proportional
from gfs_dist.pruning.widths.costs import Costs

Scores = dict[str, Tensor]
Kept = dict[str, tuple[int, ...]]
Batches = Sequence[tuple[Tensor, Tensor]]

IMPORTANCES: dict[str, Callable[[], Any]] = {
    "random": importance.RandomImportance,
    "l1": lambda: importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: importance.GroupMagnitudeImportance(p=2),
    "bn_scale": importance.BNScaleImportance,
    "taylor": importance.GroupTaylorImportance,
    "hessian": importance.GroupHessianImportance,
}


def score(
    name: str, model: nn.Module, structure: Structure, batches: Batches, seed: int = 0
) -> Scores:
    """Scores of every layer's candidates, float64 (n,); the larger the better to keep.

    Args:
        name: a key of :data:`IMPORTANCES`.
        model: not modified.
        structure: what can be removed from it.
        batches: inputs and labels; ``taylor`` and ``hessian`` read them.
        seed: of ``random``.
    """
    network = copy.deepcopy(model).eval().requires_grad_(True)
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(network, batches[0][0][:2], verbose=False)
    if name == "taylor":
        _mean_gradients(network, batches)
    elif name == "hessian":
        _mean_squared_gradients(network, batches)
    rate = IMPORTANCES[name]()
    scores = {}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for layer in structure.layers:
            module = network.get_submodule(layer.name)
            remove = graph.get_pruner_of_module(module).prune_out_channels
            group = graph.get_pruning_group(module, remove, list(range(layer.num_candidates)))
            scores[layer.name] = rate(group).double()
    return scores


def _mean_gradients(network: nn.Module, batches: Batches) -> None:
    """Leave the gradient of the mean cross-entropy in every parameter's ``grad``."""
    samples = sum(len(x) for x, _ in batches)
    for x, labels in batches:
        (functional.cross_entropy(network(x), labels, reduction="sum") / samples).backward()


def _mean_squared_gradients(network: nn.Module, batches: Batches) -> None:
    """Leave the mean over samples of squared gradients in every parameter's ``grad``."""
    parameters = list(network.parameters())
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    samples = sum(len(x) for x, _ in batches)
    for x, labels in batches:
        for i in range(len(x)):
            loss = functional.cross_entropy(network(x[i : i + 1]), labels[i : i + 1])
            for square, grad in zip(squares, torch.autograd.grad(loss, parameters), strict=True):
                square.addcmul_(grad, grad, value=1 / samples)
    for parameter, square in zip(parameters, squares, strict=True):
        parameter.grad = square


def keep_local(scores: Scores, costs: Costs, limit: int) -> Kept:
    """The best of every layer, about the same share of each."""
    widths = proportional(costs, {"macs": limit})
    return {name: _best(scores[name], width) for name, width in widths.items()}


def keep_global(scores: Scores, costs: Costs, limit: int) -> Kept:
    """The best of each layer, then the best of all layers together as long as they fit.

    One threshold over all layers, and below it whatever still fits.
    """
    ranked = sorted(
        (-float(value), name, i)
        for name, values in scores.items()
        for i, value in enumerate(values)
    )
    kept = {name: {int(values.argmax())} for name, values in scores.items()}
    for _, name, i in ranked:
        wider = {**widths_of(kept), name: len(kept[name] | {i})}
        if costs.of("macs", wider) <= limit:
            kept[name].add(i)
    return {name: tuple(sorted(chosen)) for name, chosen in kept.items()}


def widths_of(kept: Mapping[str, Collection[int]]) -> dict[str, int]:
    """How many each layer keeps."""
    return {name: len(chosen) for name, chosen in kept.items()}


def _best(scores: Tensor, width: int) -> tuple[int, ...]:
    order = torch.argsort(scores, descending=True, stable=True)
    return tuple(sorted(order[:width].tolist()))
