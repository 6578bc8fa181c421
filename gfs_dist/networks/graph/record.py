"""Records a network as steps, so that it can be run in parts."""

from __future__ import annotations

import inspect
from dataclasses import replace

import torch
from torch import Tensor, nn

from gfs_dist.networks.graph.allowed import FUNCTIONS
from gfs_dist.networks.graph.build import build
from gfs_dist.networks.graph.describe import describe
from gfs_dist.networks.graph.graph_network import GraphNetwork, Step, ordered
from gfs_dist.networks.graph.json_values import (
    MAKE_IT_PURE,
    TRAINING,
    StepOutput,
    UnstorableError,
    fill,
)
from gfs_dist.networks.graph.tensors import assign, named_tensors
from gfs_dist.networks.measure.evaluation import evaluating

RELATIVE_ERROR = 1e-5
IN_PLACE = {
    f"operator.i{name}": f"operator.{name}" for name in ("add", "sub", "mul", "truediv", "pow")
}


def record(model: nn.Module, example: Tensor) -> GraphNetwork:
    """A copy of ``model`` that runs step by step, none of them in place.

    Steps in place would change results that another part of a run still needs.

    Args:
        model: evaluated, not modified.
        example: a batch of inputs on the model's device; outputs on it are compared.

    Raises:
        UnstorableError: the forward pass cannot be recorded, or the copy computes something else.
    """
    graph, tensors = describe(model, [example], training=False)
    network = build(graph)
    _run_out_of_place(network)
    assign(network, named_tensors(network), tensors, "the network")
    network.requires_grad_(False)
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            _name_padding_in_numbers(module)
    with evaluating(model), torch.no_grad():
        expected, found = model(example.clone()), network(example)
    if not isinstance(expected, Tensor):
        kind = type(expected).__name__
        raise UnstorableError(
            f"its output is not one tensor but a {kind}; wrap it in a module that returns one"
        )
    if expected.shape != found.shape:
        raise UnstorableError(f"its recorded steps give outputs of another shape: {MAKE_IT_PURE}")
    largest = float(expected.abs().nan_to_num(0, 0).amax())  # NaN is reported later, with its layer
    if not torch.allclose(
        found, expected, rtol=RELATIVE_ERROR, atol=RELATIVE_ERROR * largest, equal_nan=True
    ):
        raise UnstorableError(f"its recorded steps give other outputs: {MAKE_IT_PURE}")
    return network


def _name_padding_in_numbers(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
    """Numbers in the place of ``same`` and ``valid``, where both ends are padded alike."""
    if not isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return
    sizes = zip(conv.dilation, conv.kernel_size, strict=True)
    whole = [step * (size - 1) if conv.padding == "same" else 0 for step, size in sizes]
    if not any(pixels % 2 for pixels in whole):
        conv.padding = tuple(pixels // 2 for pixels in whole)


def _run_out_of_place(network: GraphNetwork) -> None:
    """Have changing steps make new results; later steps use the new in the old one's place.

    Raises:
        UnstorableError: a step changes a tensor in a way that has no such form.
    """
    changing = set()
    for name, layer in network.named_modules(remove_duplicate=False):
        if getattr(layer, "inplace", False):
            changing.add(name)
    for name in changing:
        setattr(network.get_submodule(name), "inplace", False)  # noqa: B010 - of any layer
    buffers = {step.name for step in network.gfs_program if step.kind == "tensor"}
    now = {name: StepOutput(name) for name in (*network.gfs_inputs, TRAINING.name)}
    steps: list[Step] = []
    for old in network.gfs_program:
        step = replace(old, args=fill(old.args, now), kwargs=fill(old.kwargs, now))
        match step.kind, step.target, old.args:
            case "call", "Tensor.copy_", [StepOutput(buffer), StepOutput()] if buffer in buffers:
                now[step.name] = now[buffer] = step.args[1]  # the buffer stays as it is
                continue
        changes = step.kind == "module" and step.target in changing
        if step.kind == "call":
            step, changes = _call_out_of_place(step)
        steps.append(step)
        now[step.name] = StepOutput(step.name)
        if changes and step.args:
            changed = step.args[0]
            now = {name: now[step.name] if new == changed else new for name, new in now.items()}
    output = fill(network.gfs_output, now)
    network.gfs_program = ordered(network.gfs_inputs, steps, output)
    network.gfs_output = output


def _call_out_of_place(step: Step) -> tuple[Step, bool]:
    """The call out of place; whether every later use of its first argument meant the changed one.

    With operators it need not have: ``n += 1`` leaves the number that ``n`` was as it is.
    """
    target = IN_PLACE.get(step.target, step.target)
    if target.endswith("_") and not target.startswith("operator."):
        target = target.removesuffix("_")
    if target not in FUNCTIONS:
        raise UnstorableError(
            f"step {step.name!r} changes a tensor in place by {step.target}: make a new one"
        )
    changes = target != step.target and not target.startswith("operator.")
    args, kwargs = list(step.args), dict(step.kwargs)
    changes = kwargs.pop("inplace", False) is True or changes
    place = _place_of_inplace(target)
    if place is not None and len(args) > place:
        changes = args[place] is True or changes
        args[place] = False
    return replace(step, target=target, args=args, kwargs=kwargs), changes


def _place_of_inplace(target: str) -> int | None:
    """Position of the argument ``inplace`` of a function of :mod:`torch.nn.functional`."""
    if not target.startswith("torch.nn.functional."):
        return None
    try:
        names = list(inspect.signature(FUNCTIONS[target]).parameters)
    except ValueError:  # not written in Python, where none has one
        return None
    return names.index("inplace") if "inplace" in names else None
