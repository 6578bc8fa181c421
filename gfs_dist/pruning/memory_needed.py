"""Memory that a rank needs at once while a network is pruned."""

from __future__ import annotations

import torch
from torch import Tensor

from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.inputs import Batch
from gfs_dist.networks.models.layer_kinds import kernel_size, num_inputs
from gfs_dist.pruning.calibration.staged_run import (
    HELD_BYTES,
    Results,
    advance,
    make_stages,
    output_names,
)
from gfs_dist.pruning.objectives.evaluation_batches import SearchCosts, search_costs
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.repair.stream_training import BATCH, PART
from gfs_dist.pruning.widths.budget import UNITS, Budget
from gfs_dist.pruning.widths.choose import COMPARED, TRIAL_SAMPLES

COPIES = 6
"""Copies of one layer's moments: sums, centred, damped, and those of a solver."""

RESULTS_BYTES = 2**27 + HELD_BYTES
"""Activations of a chunk of samples on its way through the network, and those held meanwhile."""


def rank_bytes(pruner: Pruner, budget: Budget, num_samples: int, streams: int | None = 0) -> int:
    """Bytes a rank may hold at once besides Python and torch, about; not a bound.

    The network twice, a chunk's activations, and the largest phase: moments of the layer with the
    most inputs; of the samples that widths are measured on, the dense network's streams and what
    two fronts of smaller ones hold; evaluations of the network's loss; results of both networks
    for one part of a mini-batch in each thread.

    Args:
        streams: threads that repair them; 0: they are not, None: as many as there are cores.
    """
    weights = sum(tensor.nbytes for tensor in pruner.dense.state_dict().values())
    modules = (pruner.dense.get_submodule(site.module) for site in pruner.sites)
    inputs = [num_inputs(module) * kernel_size(module) for module in modules]
    phases = [COPIES * 8 * max(inputs, default=0) ** 2]
    if budget.shares.keys() & UNITS:
        aimed, held = _trial_bytes(pruner)
        fitted = min(num_samples, TRIAL_SAMPLES)
        phases.append(fitted * aimed + 2 * min(num_samples, (1 + COMPARED) * fitted) * held)
    if streams != 0:
        parts = min(streams or torch.get_num_threads(), BATCH // PART)
        phases.append(2 * parts * PART * _all_results(pruner.dense, pruner.example) + 4 * weights)
    if pruner.settings.objective == "network_loss":
        phases.append(max(cost.memory_bytes for cost in layer_costs(pruner, num_samples)))
    return 2 * weights + RESULTS_BYTES + max(phases)


def _all_results(network: GraphNetwork, example: Batch) -> int:
    """Bytes of all that a network computes of one sample."""
    names = frozenset(step.name for step in network.gfs_program)
    [stage] = make_stages(network, [names])
    results = advance(network, stage, {network.gfs_inputs[0]: example}).values()
    tensors = [found for found in results if isinstance(found, Tensor)]
    return sum(found.nbytes for found in tensors if len(found) == len(example)) // len(example)


def _trial_bytes(pruner: Pruner) -> tuple[int, int]:
    """Bytes of one sample: the streams that consumers are fitted to, and the most at one site."""
    dense, sites = pruner.dense, pruner.consumer_sites(pruner.structure.layers)
    start: Results = {dense.gfs_inputs[0]: pruner.example}
    names = frozenset(site.stream for site in sites)
    [stage] = make_stages(dense, [names])
    streams = _nbytes(advance(dense, stage, start))
    reads = [frozenset([site.source, site.other or site.source]) for site in sites]
    results, held = start, 0
    for stage in make_stages(dense, [*reads, output_names(dense)]):
        held = max(held, _nbytes(results))
        results = advance(dense, stage, results)
    return streams // len(pruner.example), held // len(pruner.example)


def _nbytes(results: Results) -> int:
    return sum(value.nbytes for value in results.values() if isinstance(value, Tensor))


def layer_costs(pruner: Pruner, num_samples: int) -> list[SearchCosts]:
    """Memory and work of the search of each layer by the loss of the network."""
    settings = pruner.settings
    return [
        search_costs(
            pruner.dense,
            layer,
            pruner.only_input,
            num_samples,
            settings.steps or layer.num_candidates,
            settings.recipe("auto"),
            settings.sampling,
        )
        for layer in pruner.structure.layers
    ]
