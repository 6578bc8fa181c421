"""Networks as folders (``models/NAME``): ``architecture.json`` and ``model.safetensors``.

An architecture of a deep network is verified to make the same network again. There are two kinds:
the recorded graph (:mod:`gfs_dist.networks.graph.describe`), which needs no other code, and the
origin of the network with what was removed from it (:mod:`gfs_dist.networks.storage.rebuild`).
Networks of the catalog and of packages that are known prefer the second, all others the first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    NonFiniteError,
    ShapeError,
    error_line,
)
from gfs_dist.files import atomic, checkpoint
from gfs_dist.files.untrusted import ARCHITECTURE, read_json
from gfs_dist.networks.graph.describe import describe
from gfs_dist.networks.graph.json_values import MAKE_IT_PURE, UnstorableError
from gfs_dist.networks.graph.tensors import copied, named_tensors, refuse_non_finite
from gfs_dist.networks.measure.evaluation import first_non_finite
from gfs_dist.networks.measure.inputs import Inputs
from gfs_dist.networks.models.builders import Builder, build_empty
from gfs_dist.networks.models.catalog import CATALOG
from gfs_dist.networks.models.two_layer import TwoLayer
from gfs_dist.networks.storage.equality import (
    Given,
    difference,
    first_row,
    inputs_of,
    outputs_of,
    plain_copy,
)
from gfs_dist.networks.storage.rebuild import load_tensors, make_unpruned
from gfs_dist.networks.storage.removals import removals
from gfs_dist.networks.storage.transformers_folder import write_hf_files

LINE = 160
UNKNOWN = {"model": "graph"}
"""The origin of a network that came as an object."""

Architecture = tuple[dict[str, Any], dict[str, Tensor]]
"""The content of ``architecture.json``, and the tensors for it."""


def save(
    folder: Path | str,
    network: nn.Module,
    *,
    example: Tensor | Sequence[Tensor] | Inputs | None = None,
    origin: dict[str, Any] | None = None,
    builder: Builder | None = None,
) -> dict[str, str]:
    """Write ``architecture.json`` and ``model.safetensors``, whole or not at all.

    A model of transformers is stored with its configuration and tokenizer, if with these
    ``from_pretrained`` gives the same network.

    Args:
        folder: where; replaced if it is there.
        network: not modified. A deep one is stored as it evaluates; its dtype is kept.
        example: what it is called with, a tensor, several, or :class:`Inputs`; only two-layer
            networks need none.
        origin: of the network before anything was removed, as keys of the configuration:
            ``{"model": NAME, "num_classes", "in_channels", "width"}`` or
            ``{"model": "custom", "factory", "kwargs"}``.
        builder: that of the network before anything was removed, if it is one of a known package:
            see :func:`gfs_dist.networks.models.builders.builder_of`.

    Returns:
        ``{"loads": "transformers"}``, or ``{"loads": "gfs_dist.load", "reason": ...}``, with the
        reason only of a model of transformers that its ``from_pretrained`` cannot load.

    Raises:
        ConfigError: no architecture makes the same network again; gives the reasons.
        ShapeError: it does not take the example.
        NonFiniteError: a tensor holds NaN or infinity, or its output NaN; names tensor or layer.
        StorageError: disk full, no permission, missing parent folder.
    """
    if isinstance(network, TwoLayer):
        architecture, tensors = network.architecture, dict(network.state_dict())
        refuse_non_finite(tensors)
    elif example is None:
        raise ConfigError("example: found None, accepted inputs of the network: tensors")
    else:
        try:
            copy, inputs = plain_copy(network), inputs_of(example)
            architecture, tensors = _verified_architecture(copy, inputs, origin, builder)
        except UnstorableError as error:
            raise ConfigError(f"model: it cannot be stored: {error}") from error
    with atomic.folder(folder) as aside:
        content = {"format": checkpoint.FORMAT, **architecture}
        atomic.write_text(aside / ARCHITECTURE, _readable(content) + "\n")
        by_hf = builder is not None and architecture.get("builder") and builder.kind == "hf"
        checkpoint.write_tensors(
            aside / checkpoint.MODEL, tensors, {"format": "pt"} if by_hf else None
        )
        if not by_hf or builder is None:
            return {"loads": "gfs_dist.load"}
        reason = write_hf_files(aside, copy, builder, inputs)
    return {"loads": "gfs_dist.load", "reason": reason} if reason else {"loads": "transformers"}


def load(folder: Path | str, *, factory: str | None = None) -> nn.Module:
    """Read a network that :func:`save` wrote; it evaluates until ``.train()`` is called.

    A network whose graph could not be recorded is made again by the factory that its file names.
    The file may come from anyone, so that factory is imported and called only if you name it too.

    Args:
        folder: ``models/NAME``.
        factory: ``package.module:function``, as in the file; needed by such networks alone.

    Raises:
        CheckpointError: missing, damaged, its tensors do not fit the architecture, or its factory
            cannot be called or was not named.
    """
    if not isinstance(folder, str | PathLike):
        raise TypeError(f"folder: found {type(folder).__name__}, accepted the path of a folder")
    folder = Path(folder)
    architecture = read_json(folder / ARCHITECTURE)
    tensors = checkpoint.read_tensors(folder / checkpoint.MODEL)
    try:
        network = load_tensors(architecture, tensors, folder / checkpoint.MODEL, factory=factory)
    except ConfigError as error:
        raise CheckpointError(f"{folder / ARCHITECTURE}: {error}") from error
    if architecture.get("model") == "hf" and "builder" in architecture:
        network.name_or_path = str(folder)  # type: ignore[assignment]
    return network


def _readable(content: Any, margin: str = "") -> str:
    """JSON with one line for each part that fits in one, such as a layer or a step."""
    line = atomic.json_text(content)
    if len(margin + line) <= LINE or not isinstance(content, dict | list) or not content:
        return line
    inner = margin + " "
    if isinstance(content, dict):
        items = [f"{atomic.json_text(key)}: {_readable(content[key], inner)}" for key in content]
    else:
        items = [_readable(item, inner) for item in content]
    parts = f",\n{inner}".join(items)
    return f"{line[0]}\n{inner}{parts}\n{margin}{line[-1]}"


def _verified_architecture(
    network: nn.Module,
    inputs: Given,
    origin: dict[str, Any] | None = None,
    builder: Builder | None = None,
) -> Architecture:
    """An architecture from which the same network was made again, and the tensors for it.

    Args:
        network: a :func:`plain_copy`.
        inputs: its example.
        origin, builder: see :func:`gfs_dist.networks.save`.

    Raises:
        UnstorableError: there is none.
        ShapeError: the network does not take the example.
        NonFiniteError: a tensor holds NaN or infinity, or the output NaN; names tensor or layer.
    """
    origin = _as_read(origin or UNKNOWN)
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise UnstorableError(
                f"its state has a {type(value).__name__}, {name!r}, no tensor: give it without "
                "get_extra_state, and a quantized network as it was before"
            )
        refuse_non_finite({name: value})
    examples = _examples(network, inputs)
    kinds = [lambda: _by_graph(network, inputs, origin), lambda: _by_origin(network, origin)]
    if origin.get("model") in CATALOG:
        kinds.reverse()
    if builder is not None:
        kinds.insert(0, lambda: _by_builder(network, builder, origin))
    evaluation_only: list[Architecture] = []
    reasons = []
    for kind in kinds:
        try:
            architecture, tensors = kind()
            _verify(architecture, tensors, network, examples)
        except (UnstorableError, InputError) as reason:
            reasons.append(str(reason))
            continue
        if not architecture.get("graph", {}).get("evaluation_only"):
            return architecture, tensors
        evaluation_only.append((architecture, tensors))
    if evaluation_only:
        return evaluation_only[0]
    raise UnstorableError(*reasons)


def _examples(network: nn.Module, inputs: Given) -> list[tuple[Given, list[Any]]]:
    """Inputs and the outputs on them: of the whole example, and of its first row if that runs.

    Raises:
        ShapeError: the network does not take the example.
        NonFiniteError: an output is NaN; names the first layer.
    """
    running = copied(network)  # a forward pass may count its calls in a buffer
    try:
        examples = [(inputs, outputs_of(running, inputs))]
    except Exception as error:  # the user's code may raise anything
        words = error_line(error)
        tensors = inputs.tensors.values() if isinstance(inputs, Inputs) else inputs
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
        raise ShapeError(f"example of shape {shapes}: on it the network raises {words}") from error
    if any(isinstance(leaf, Tensor) and leaf.isnan().any() for leaf in examples[0][1]):
        layer = first_non_finite(network, inputs)
        raise NonFiniteError(f"model: its output is NaN, first after layer {layer!r}")
    with suppress(Exception):  # some networks need several rows; others have to take any number
        row = first_row(inputs)
        examples.append((row, outputs_of(running, row)))
    return examples


def _by_builder(network: nn.Module, builder: Builder, origin: dict[str, Any]) -> Architecture:
    """Of a network of a known package; buffers are stored where it makes others."""
    dense = build_empty(builder)
    own, made, held = named_tensors(network), named_tensors(dense), {*network.state_dict()}
    for name, buffer in network.named_buffers():
        other = made.get(name)
        same = other is not None and other.dtype == buffer.dtype and torch.equal(other, buffer)
        held |= set() if same else {name}
    tensors = {name: tensor.detach() for name, tensor in own.items() if name in held}
    known = {"model": builder.kind, "builder": vars(builder)}
    return {**origin, **known, "removals": removals(dense, network)}, tensors


def _by_graph(network: nn.Module, inputs: Given, origin: dict[str, Any]) -> Architecture:
    if isinstance(inputs, Inputs):
        raise UnstorableError("its inputs do not come by position, as those of recorded graphs do")
    graph, tensors = describe(network, inputs)
    refuse_non_finite(tensors)  # constants of the forward pass too
    return {**origin, "graph": graph}, tensors


def _by_origin(network: nn.Module, origin: dict[str, Any]) -> Architecture:
    if origin == UNKNOWN:
        raise UnstorableError(
            "its factory, which could make it again, is not known: name it, "
            "factory='package.module:function'"
        )
    unpruned = make_unpruned(origin, allowed_factory=origin.get("factory"))
    own = named_tensors(network)
    tensors = {name: own[name].detach() for name in network.state_dict() if name in own}
    return {**origin, "removals": removals(unpruned, network)}, tensors


def _verify(
    architecture: dict[str, Any],
    tensors: dict[str, Tensor],
    network: nn.Module,
    examples: list[tuple[Given, list[Any]]],
) -> None:
    """Make the network again as :func:`gfs_dist.load` will.

    Raises:
        UnstorableError: it is not the same.
    """
    try:
        factory = architecture.get("factory")
        again = load_tensors(_as_read(architecture), tensors, "model", factory=factory)
        wrong = [difference(wanted, outputs_of(again, inputs)) for inputs, wanted in examples]
    except Exception as error:  # an architecture that leaves something out may raise anything
        raise UnstorableError(f"made again: {error}: {MAKE_IT_PURE}") from error
    for name in network.state_dict().keys() ^ again.state_dict().keys():
        raise UnstorableError(f"made again, {name!r} is not in both")
    for words in filter(None, wrong):
        raise UnstorableError(f"made again, it {words}: {MAKE_IT_PURE}")


def _as_read(content: dict[str, Any]) -> dict[str, Any]:
    """JSON content as it is read from a file."""
    try:
        read: dict[str, Any] = json.loads(atomic.json_text(content))
    except TypeError as error:
        raise ConfigError(f"model: {error}, accepted is what JSON has") from error
    return read
