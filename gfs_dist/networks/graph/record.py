"""A network as its recorded steps, so that it can be run in parts."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.networks.graph.allowed import FUNCTIONS
from gfs_dist.networks.graph.build import build
from gfs_dist.networks.graph.describe import describe
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.json_values import UNSEEN, UnstorableError
from gfs_dist.networks.measure.modes import evaluating
from gfs_dist.networks.storage.tensors import assign, named_tensors

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
    network = build(_out_of_place(graph))
    assign(network, named_tensors(network), tensors, "the network")
    network.requires_grad_(False)
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            _say_padding(module)
    with evaluating(model), torch.no_grad():
        expected, found = model(example.clone()), network(example)
    if not isinstance(expected, Tensor):
        kind = type(expected).__name__
        raise UnstorableError(
            f"its output is not one tensor but a {kind}; wrap it in a module that returns one"
        )
    if expected.shape != found.shape:
        raise UnstorableError(f"its recorded steps give outputs of another shape: {UNSEEN}")
    largest = float(expected.abs().nan_to_num(0, 0).amax())  # NaN is found later, with its layer
    if not torch.allclose(found, expected, rtol=SAME, atol=SAME * largest, equal_nan=True):
        raise UnstorableError(f"its recorded steps give other outputs: {UNSEEN}")
    return network


def _say_padding(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
    """Numbers in the place of ``same`` and ``valid``, where both ends are padded alike."""
    if not isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return
    sizes = zip(conv.dilation, conv.kernel_size, strict=True)
    whole = [step * (size - 1) if conv.padding == "same" else 0 for step, size in sizes]
    if not any(pixels % 2 for pixels in whole):
        conv.padding = tuple(pixels // 2 for pixels in whole)


def _out_of_place(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph with new results for changed ones; later steps use the new in the old one's place.

    Raises:
        UnstorableError: a step changes a tensor in a way that has no such form.
    """
    layers = copy.deepcopy(graph["modules"])
    changing = set()
    for name, facts in layers.items():
        if facts.get("same_as") in changing or facts.get("arguments", {}).pop("inplace", False):
            changing.add(name)
    nodes: list[dict[str, Any]] = []
    own = {node["name"] for node in graph["nodes"] if "tensor" in node}
    now: dict[str, str] = {}
    for node in graph["nodes"]:
        step = {**node, **{key: _renamed(node[key], now) for key in ("args", "kwargs")}}
        match node["args"] if node.get("call") == "Tensor.copy_" else []:
            case [{"node": buffer}, {"node": _}] if buffer in own:  # it stays as it is
                now |= dict.fromkeys((step["name"], buffer), step["args"][1]["node"])
                continue
        changes = step.get("module") in changing
        if "call" in step:
            changes = _call_out_of_place(step)
        nodes.append(step)
        if changes and step["args"]:
            changed = step["args"][0]["node"]
            now = {old: step["name"] if new == changed else new for old, new in now.items()}
            now[changed] = step["name"]
    return {**graph, "modules": layers, "nodes": nodes, "output": _renamed(graph["output"], now)}


def _call_out_of_place(step: dict[str, Any]) -> bool:
    """Rewrite one call; whether every later use of its first argument meant the changed one.

    With operators it need not have: ``n += 1`` leaves the number that ``n`` was as it is.
    """
    target = IN_PLACE.get(step["call"], step["call"])
    if target.endswith("_") and not target.startswith("operator."):
        target = target.removesuffix("_")
    if target not in FUNCTIONS:
        raise UnstorableError(
            f"step {step['name']!r} changes a tensor in place by {step['call']}: make a new one"
        )
    changes = target != step["call"] and not target.startswith("operator.")
    step["call"] = target
    if step["kwargs"].pop("inplace", False) is True:
        changes = True
    place = _place_of_switch(target)
    if place is not None and len(step["args"]) > place:
        changes = step["args"][place] is True or changes
        step["args"] = [*step["args"][:place], False, *step["args"][place + 1 :]]
    return changes


def _place_of_switch(target: str) -> int | None:
    """Which argument of a function of :mod:`torch.nn.functional` is ``inplace``."""
    if not target.startswith("torch.nn.functional."):
        return None
    try:
        names = list(inspect.signature(FUNCTIONS[target]).parameters)
    except ValueError:  # not written in Python, where none has one
        return None
    return names.index("inplace") if "inplace" in names else None


def _renamed(content: Any, now: dict[str, str]) -> Any:
    """Encoded arguments with other results in the places of those that have been changed."""
    if isinstance(content, list):
        return [_renamed(part, now) for part in content]
    if isinstance(content, dict):
        if content.keys() == {"node"}:
            return {"node": now.get(content["node"], content["node"])}
        return {key: _renamed(part, now) for key, part in content.items()}
    return content
