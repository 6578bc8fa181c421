"""A network as JSON: its layers, its own tensors and the steps of its forward pass.

``torch.fx`` runs ``forward`` on stand-ins for tensors and records each operation. Conditions on
numbers in tensors, and operations that :mod:`gfs_dist.networks.graph.allowed` does not list, are
refused with the reason; hooks, and contexts such as ``no_grad`` inside ``forward``, are not
recorded. Where training takes other steps than evaluation, and not only another value of an
argument, the steps of evaluation are kept and marked as such.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import resolve_name

from gfs_dist.networks.graph.allowed import FUNCTION_NAMES, FUNCTIONS, MODULE_NAMES
from gfs_dist.networks.graph.build import is_argument, make_layer
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.json_values import SPLIT_IT, UnstorableError, encode
from gfs_dist.networks.graph.tensors import copied, named_tensors, split_name
from gfs_dist.networks.graph.tracer import trace


def describe(
    network: nn.Module, inputs: Sequence[Tensor], *, training: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The graph of a network, and its tensors.

    Args:
        network: not modified; one that :func:`gfs_dist.load` gave describes itself again.
        inputs: of ``forward`` by position, on the network's device.
        training: record what differs in training, too.

    Returns:
        the description that :func:`gfs_dist.networks.graph.build.build` reads; the state dict and,
        where there are any, tensors outside it that ``forward`` uses.

    Raises:
        UnstorableError: names the layer or step, and why.
    """
    traced = network
    if isinstance(network, GraphNetwork):
        nodes = [_node(s.name, s.kind, s.target, s.args, s.kwargs) for s in network.gfs_program]
        steps = {"inputs": network.gfs_inputs, "nodes": nodes, "output": encode(network.gfs_output)}
        if network.gfs_evaluation_only:
            steps["evaluation_only"] = True
    else:
        traced = copied(network).eval()
        steps = _steps(traced, inputs)
        try:
            if training:
                steps = _joined(steps, _steps(copied(network).train(), inputs))
        except UnstorableError:
            steps = {**steps, "evaluation_only": True}
    layers = _layers(traced)
    tensors = named_tensors(network)  # tracing may have changed those of its copy
    own = _own_tensors(traced, tensors, layers, steps["nodes"])
    graph = {"modules": layers, "tensors": own, "tied": _tied(tensors, layers), **steps}
    return graph, {name: tensor.detach() for name, tensor in tensors.items()}


def _node(
    name: str, kind: str, target: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        encoded = {key: encode(value) for key, value in kwargs.items()}
        return {"name": name, kind: target, "args": [encode(a) for a in args], "kwargs": encoded}
    except UnstorableError as error:
        raise UnstorableError(f"step {name!r}: {error}: {SPLIT_IT}") from error


def _steps(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """The steps of ``network`` in its mode, as JSON."""
    before = named_tensors(network)
    graph = trace(network, inputs)
    _keep_assigned(network, before, graph)
    names, nodes, output = [], [], None
    for node in graph.nodes:
        if node.op == "placeholder":
            names.append(node.name)
        elif node.op == "output":
            output = encode(node.args[0])
        else:
            nodes.append(_step(node, network))
    return {"inputs": names, "nodes": nodes, "output": output}


def _keep_assigned(network: nn.Module, tensors: dict[str, Tensor], graph: fx.Graph) -> None:
    """Record assignments to buffers (``self.calls += 1``) as copies into them.

    Tracing left stand-ins in their places; the tensors are put back.
    """
    for name, tensor in tensors.items():
        owner, own_name = split_name(network, name)
        found: Any = getattr(owner, own_name)
        if isinstance(found, fx.Proxy):
            setattr(owner, own_name, tensor)
            with graph.inserting_before(next(reversed(graph.nodes))):
                graph.call_method("copy_", (graph.get_attr(name), found.node))


def _step(node: fx.Node, network: nn.Module) -> dict[str, Any]:
    kind, target, args = "call", str(node.target), node.args
    if node.op == "call_module":
        kind, layer = "module", network.get_submodule(target)
        if type(layer) not in MODULE_NAMES:
            cure = f", which cannot be recorded: {SPLIT_IT}"
            if is_parametrized(layer):
                cure = (
                    " whose tensors are computed from others (weight norm, spectral norm); make "
                    "them plain by torch.nn.utils.parametrize.remove_parametrizations first"
                )
            raise UnstorableError(f"layer {target!r} is a {type(layer).__name__}{cure}")
    elif node.op == "get_attr":
        kind, (owner, name) = "tensor", split_name(network, target)
        if not isinstance(getattr(owner, name, None), Tensor):
            raise UnstorableError(
                f"step {node.name!r} uses {target!r}, which is no tensor: {SPLIT_IT}"
            )
    else:
        target, args = _function(node)
    return _node(node.name, kind, target, args, node.kwargs)


def _function(node: fx.Node) -> tuple[str, tuple[Any, ...]]:
    """Name in :data:`FUNCTIONS` and arguments of a function, method or attribute."""
    args: tuple[Any, ...] = node.args
    if node.target is getattr:
        found, args = f"Tensor.{args[1]}", args[:1]
    elif node.op == "call_method":
        found = f"Tensor.{node.target}"
    else:
        function: Any = node.target
        # torch's own functions have other names than those that users call.
        own_name = getattr(function, "__qualname__", str(function))
        found = FUNCTION_NAMES.get(function) or resolve_name(function) or own_name
    if found not in FUNCTIONS:
        raise UnstorableError(
            f"step {node.name!r} calls {found}, which cannot be recorded: {SPLIT_IT}"
        )
    return found, args


def _joined(evaluation: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """The steps of both modes.

    Training alone may count batches, as batch norms do (``counter.add_(1)``): evaluation then adds
    the mode itself, False for 0.

    Raises:
        UnstorableError: they differ in something else.
    """
    extra = {node["name"]: node for node in training["nodes"]}
    for node in evaluation["nodes"]:
        extra.pop(node["name"], None)
    counting: dict[str, dict[str, Any]] = {}
    for name, node in extra.items():
        match node:
            case {"call": "Tensor.add_", "args": [{"node": counter}, 1]} if counter in extra:
                counting[counter] = extra[counter]
                counting[name] = {**node, "args": [{"node": counter}, {"mode": "training"}]}
    others = [node for node in training["nodes"] if node["name"] not in counting]
    both = _both_modes(evaluation, {**training, "nodes": others})
    left = iter(both["nodes"])
    names = [node["name"] for node in training["nodes"]]
    return {**both, "nodes": [counting[name] if name in counting else next(left) for name in names]}


def _both_modes(evaluation: Any, training: Any) -> Any:
    """One description for both modes: the mode itself where False becomes True.

    Raises:
        UnstorableError: they differ in something else.
    """
    if evaluation is False and training is True:
        return {"mode": "training"}
    if isinstance(evaluation, dict) and isinstance(training, dict):
        if evaluation.keys() == training.keys():
            return {key: _both_modes(evaluation[key], training[key]) for key in evaluation}
    elif isinstance(evaluation, list) and isinstance(training, list):
        if len(evaluation) == len(training):
            return [_both_modes(*pair) for pair in zip(evaluation, training, strict=True)]
    elif type(evaluation) is type(training) and evaluation == training:
        return evaluation
    raise UnstorableError("training takes other steps than evaluation")


def _layers(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Class and arguments of each layer of torch; ``same_as`` under a second name of one."""
    layers: dict[str, dict[str, Any]] = {}
    first: dict[nn.Module, str] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if name and type(module) in MODULE_NAMES:
            if module in first:
                layers[name] = {"same_as": first[module]}
            else:
                first[module] = name
                layers[name] = _layer(name, module)
    return layers


def _layer(name: str, module: nn.Module) -> dict[str, Any]:
    content = {"class": MODULE_NAMES[type(module)], "arguments": _arguments(module)}
    with torch.device("meta"):
        again = make_layer(content, f"layer {name!r}")
    # In any order: a tensor that was removed and set again comes last.
    found, accepted = (
        {name: tuple(tensor.shape) for name, tensor in named_tensors(layer).items()}
        for layer in (module, again)
    )
    if found != accepted or repr(again) != repr(module):
        shapes = [
            ", ".join(f"{name} {shape}" for name, shape in tensors.items()) or "no tensors"
            for tensors in (found, accepted)
        ]
        raise UnstorableError(
            f"layer {name!r} is no plain {type(module).__name__}: found {shapes[0]}, but "
            f"{again!r} has {shapes[1]}: make it one, as torch.nn.utils.remove_spectral_norm and "
            "prune.remove do"
        )
    return content


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Arguments of its class, read from its attributes; defaults are left out."""
    arguments = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if not is_argument(name) or not hasattr(module, name):
            continue
        value = getattr(module, name)
        if name == "bias":
            value = value is not None
        default = parameter.default
        if value != default and value != (default,) * (len(value) if type(value) is tuple else 0):
            arguments[name] = encode(value)
    return arguments


def _own_tensors(
    network: nn.Module,
    tensors: dict[str, Tensor],
    layers: dict[str, dict[str, Any]],
    nodes: list[dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Kind and shape of each tensor outside the layers; adds plain attributes to ``tensors``.

    The dtype is given for whole numbers, booleans and complex numbers: a network can be cast
    from one floating dtype to another, and nothing else.
    """
    stored = network.state_dict().keys()
    for target in (node["tensor"] for node in nodes if "tensor" in node):
        owner, name = split_name(network, target)
        tensors.setdefault(target, getattr(owner, name))
    own = {}
    for name, tensor in tensors.items():
        if name.rpartition(".")[0] not in layers:
            kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            kind = kind if name in stored else "constant"
            own[name] = {"kind": kind, "shape": list(tensor.shape)}
            if not tensor.is_floating_point():
                own[name]["dtype"] = str(tensor.dtype).removeprefix("torch.")
    return own


def _tied(tensors: dict[str, Tensor], layers: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Second names of shared tensors, each with the first name."""
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in tensors.items():
        original = first.setdefault(id(tensor), name)
        if original != name and "same_as" not in layers.get(name.rpartition(".")[0], {}):
            tied[name] = original
    return tied
