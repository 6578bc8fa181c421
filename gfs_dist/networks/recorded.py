"""A network as its recorded steps, so that it can be run in parts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from gfs_dist.networks.allowed import FUNCTIONS
from gfs_dist.networks.graph import describe
from gfs_dist.networks.graph_build import build
from gfs_dist.networks.graph_network import GraphNetwork, Step
from gfs_dist.networks.modes import evaluating
from gfs_dist.networks.tensors import assign, named_tensors
from gfs_dist.networks.values import UnstorableError

SAME = 1e-5
IN_PLACE = {
    f"operator.i{name}": f"operator.{name}" for name in ("add", "sub", "mul", "truediv", "pow")
}


def record(model: nn.Module, example: Tensor) -> GraphNetwork:
    """A copy of ``model`` that goes through its steps one by one, none of them in place.

    Steps in place would change results that another part of a run still needs.

    Args:
        model: evaluated, not modified.
        example: a batch of inputs on the model's device; outputs on it are compared.

    Raises:
        UnstorableError: the forward pass cannot be recorded, or the copy computes something else.
    """
    graph, tensors = describe(model, [example])
    network = build(graph)
    assign(network, named_tensors(network), tensors, "the network")
    network.requires_grad_(False)
    network.eval()
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    network.gfs_program = [_not_in_place(step) for step in network.gfs_program]
    with evaluating(model), torch.no_grad():
        expected, found = model(example), network(example)
    if not isinstance(expected, Tensor) or expected.shape != found.shape:
        raise UnstorableError("its output is not one tensor")
    if not torch.allclose(found, expected, rtol=SAME, atol=SAME * float(expected.abs().max())):
        raise UnstorableError("its recorded steps give other outputs")
    return network


def _not_in_place(step: Step) -> Step:
    if step.kind != "call":
        return step
    target = IN_PLACE.get(step.target, step.target)
    if target.endswith("_") and not target.startswith("operator."):
        target = target.removesuffix("_")
    if target not in FUNCTIONS:
        raise UnstorableError(f"step {step.name!r} changes a tensor in place by {step.target}")
    kwargs = {key: value for key, value in step.kwargs.items() if key != "inplace"}
    return replace(step, target=target, kwargs=kwargs)
