"""From a description in JSON back to a network; the description may come from anyone.

Nothing is imported, evaluated or allocated: layers are those of
:data:`gfs_dist.networks.graph.allowed.MODULES`, made on the meta device, where tensors have shapes
and no numbers. The numbers come from a file whose size bounds them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.errors import ConfigError, first_line
from gfs_dist.networks.graph.allowed import FUNCTIONS, MODULES
from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import NAMED, checked, decode
from gfs_dist.networks.graph.tensors import as_parameter, empty_tensor, named_tensors, split_name

MAX_LEVELS = 32


def build(graph: Any) -> GraphNetwork:
    """The described network on the meta device.

    Args:
        graph: of :func:`gfs_dist.networks.graph.describe.describe`; anything else is refused.

    Raises:
        ConfigError: names the part that is malformed or unknown.
    """
    graph = checked(dict, graph, "graph")
    layers = checked(dict, graph.get("modules"), "graph.modules")
    own = checked(dict, graph.get("tensors"), "graph.tensors")
    network = _network(graph)
    with torch.device("meta"):
        made: dict[str, nn.Module] = {}
        for name, content in layers.items():
            made[name] = _layer_or_alias(content, made, f"graph.modules: layer {name[:60]!r}")
            _place(network, name, made[name])
        for name, content in own.items():
            _place(network, name, *_tensor(content, f"graph.tensors: {name[:60]!r}"))
    tensors = named_tensors(network)
    for name, original in checked(dict, graph.get("tied"), "graph.tied").items():
        old, new = tensors.get(name), tensors.get(original) if isinstance(original, str) else None
        if old is None or new is None or old.shape != new.shape or type(old) is not type(new):
            raise ConfigError(f"graph.tied: {name[:60]!r} cannot be {str(original)[:60]!r}")
        owner, own_name = split_name(network, name)
        setattr(owner, own_name, new)
    there: dict[str, Any] = {"module": layers, "tensor": tensors, "call": FUNCTIONS}
    for step in network.gfs_program:
        if step.target not in there[step.kind]:
            where = f"graph.nodes: step {step.name[:60]!r}"
            raise ConfigError(f"{where}: found no {step.kind} {step.target[:60]!r}")
    return network


def _network(graph: dict[str, Any]) -> GraphNetwork:
    """The steps alone, without layers and tensors."""
    inputs = checked(list, graph.get("inputs"), "graph.inputs")
    if not all(isinstance(name, str) for name in inputs) or len(set(inputs)) < len(inputs):
        raise ConfigError(f"graph.inputs: found {str(inputs)[:60]}, accepted different names")
    output = decode(graph.get("output"), "graph.output")
    steps = [_step(node) for node in checked(list, graph.get("nodes"), "graph.nodes")]
    only = bool(graph.get("evaluation_only"))
    return GraphNetwork(inputs, steps, output, evaluation_only=only)


def _step(node: Any) -> Step:
    content = checked(dict, node, "graph.nodes")
    name = content.get("name")
    where = f"graph.nodes: step {str(name)[:60]!r}"
    targets = {kind: content[kind] for kind in ("module", "tensor", "call") if kind in content}
    if not isinstance(name, str) or len(targets) != 1:
        raise ConfigError(f"{where}: accepted is a name and one of module, tensor, call")
    kind, target = targets.popitem()
    if not isinstance(target, str):
        raise ConfigError(f"{where}: found {kind} {str(target)[:60]}, accepted a name")
    args = checked(list, content.get("args"), f"{where}, args")
    kwargs = checked(dict, content.get("kwargs"), f"{where}, kwargs")
    return Step(
        *(name, kind, target),
        args=[decode(value, f"{where}, argument {place}") for place, value in enumerate(args)],
        kwargs={key: decode(value, f"{where}, {key}") for key, value in kwargs.items()},
    )


def make_layer(content: dict[str, Any], where: str) -> nn.Module:
    """A layer from its ``class`` and ``arguments``, on the current device.

    Raises:
        ConfigError: an unknown class, or arguments that its constructor refuses.
    """
    name = content.get("class")
    if not isinstance(name, str) or name not in MODULES:
        raise ConfigError(f"{where}: found class {str(name)[:60]!r}, accepted layers of torch.nn")
    arguments = {}
    for key, value in checked(dict, content.get("arguments"), f"{where}, arguments").items():
        if not is_argument(key):
            raise ConfigError(f"{where}: found argument {key[:60]!r}, which no description has")
        arguments[key] = decode(value, f"{where}, {key[:60]}")
    try:
        return MODULES[name](**arguments)
    except Exception as error:  # constructors raise anything where the arguments are odd
        words = first_line(error)[:200]
        raise ConfigError(f"{where}: {name} cannot be made: {words}") from error


def is_argument(name: str) -> bool:
    """Whether a description holds this argument; it leaves out a layer's device and dtype."""
    return name not in ("device", "dtype") and not name.startswith("_")


def _layer_or_alias(content: Any, made: dict[str, nn.Module], where: str) -> nn.Module:
    content = checked(dict, content, where)
    if "same_as" not in content:
        return make_layer(content, where)
    original = content["same_as"]
    if not isinstance(original, str) or original not in made:
        raise ConfigError(f"{where}: same_as {str(original)[:60]!r} is no layer before it")
    return made[original]


def _tensor(content: Any, where: str) -> tuple[Tensor, bool]:
    """A tensor on the meta device, and whether it belongs to the state dict."""
    content = checked(dict, content, where)
    kind = content.get("kind")
    if kind not in ("parameter", "buffer", "constant"):
        raise ConfigError(
            f"{where}: found {str(kind)[:60]!r}, accepted parameter, buffer, constant"
        )
    dtype = content.get("dtype", "float32")
    if not isinstance(dtype, str) or dtype not in NAMED["dtype"]:
        raise ConfigError(
            f"{where}: found dtype {str(dtype)[:60]!r}, accepted {', '.join(NAMED['dtype'])}"
        )
    tensor = empty_tensor(content.get("shape"), where, NAMED["dtype"][dtype])
    return (as_parameter(tensor) if kind == "parameter" else tensor), kind != "constant"


def _place(network: nn.Module, name: str, part: nn.Module | Tensor, stored: bool = True) -> None:
    """Register a layer or tensor under its name, and plain modules for the names before the last.

    Raises:
        ConfigError: the name is taken, malformed, or leads through something that is no module.
    """
    *owners, own_name = name.split(".")
    holder: Any = network
    try:
        if len(owners) > MAX_LEVELS:
            raise KeyError("too many levels")
        for owner in owners:
            if not isinstance(getattr(holder, owner, None), nn.Module):
                holder.add_module(owner, nn.Module())
            holder = getattr(holder, owner)
        if hasattr(holder, own_name):
            raise KeyError("the name is taken")
        if isinstance(part, nn.Module):
            holder.add_module(own_name, part)
        elif isinstance(part, nn.Parameter):
            holder.register_parameter(own_name, part)
        else:
            holder.register_buffer(own_name, part, persistent=stored)
    except KeyError as error:
        raise ConfigError(f"graph: {name[:60]!r} cannot be placed: {error.args[0]}") from error
