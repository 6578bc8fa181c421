"""Memory that a network takes for one forward pass, counted from the sizes of its tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.json_values import TRAINING
from gfs_dist.networks.graph.tensors import named_tensors
from gfs_dist.networks.measure.evaluation import dtype_of, evaluating
from gfs_dist.networks.measure.inputs import Batch, Inputs
from gfs_dist.pruning.calibration.staged_run import make_stages, output_names


def forward_bytes(network: GraphNetwork, x: Batch) -> int:
    """Bytes of parameters, buffers and inputs, and the most bytes of results alive at once.

        memory = sum_p bytes(p) + bytes(x) + max_i sum_(r alive at step i) bytes(r)

    A result is alive from the step that gives it to the last one that reads it; while a step
    runs, what it reads and gives is. Memory that several tensors share counts once; nothing is done
    in place. What the inside of a step takes is not counted, nor what an allocator adds: the number
    is the same everywhere.

    Args:
        network: runs once, in evaluation mode, and is left as it was.
        x: a batch of inputs, on its device.
    """
    if isinstance(x, Tensor) and x.is_floating_point():
        x = x.to(dtype_of(network))
    inputs = [*x.tensors.values()] if isinstance(x, Inputs) else [x]
    held = {tensor.data_ptr(): tensor for tensor in (*named_tensors(network).values(), *inputs)}
    ours = {tensor.untyped_storage().data_ptr() for tensor in held.values()}
    [stage] = make_stages(network, [output_names(network)])
    [name] = network.gfs_inputs
    results, most = {TRAINING.name: False, name: x}, 0
    with torch.no_grad(), evaluating(network):
        for step, freed in stage.schedule:
            results[step.name] = network.run_step(step, results)
            alive = {
                found.untyped_storage().data_ptr(): found.untyped_storage().nbytes()
                for found in tree_leaves(results)
                if isinstance(found, Tensor)
            }
            most = max(most, sum(size for place, size in alive.items() if place not in ours))
            for gone in freed:
                results.pop(gone, None)
    return sum(tensor.nbytes for tensor in held.values()) + most
