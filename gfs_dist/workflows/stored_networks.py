"""Reads images and networks, of two layers or deep, and checks that they fit each other."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gfs_dist import data, networks
from gfs_dist.config import commands as schema
from gfs_dist.config.groups import Catalog, Custom, Stored
from gfs_dist.data import DataSpec, Images
from gfs_dist.errors import CheckpointError, ConfigError, ShapeError, first_line
from gfs_dist.files import checkpoint
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.pruning.calibration.batches import WRAP

ORIGIN = ("model", "num_classes", "in_channels", "width", "factory", "kwargs")


@functools.lru_cache(maxsize=1)
def read_images(spec: DataSpec) -> Images:
    """Both splits; read once a process."""
    return data.load_images(spec)


def describe(model: schema.Model, images: Images) -> dict[str, Any]:
    """The architecture that the keys ``model.*`` name, with its channels and classes of the data.

    Raises:
        ConfigError: they name none: a stored network describes itself.
    """
    if isinstance(model, Stored):
        raise ConfigError(f"model: found {model.name}, accepted here the name of a network")
    return named_network(model, images.num_classes, images.x_train.shape[1])


def named_network(model: schema.Model, num_classes: int, in_channels: int) -> dict[str, Any]:
    """The architecture of a network of the catalog, or of the user's own."""
    if isinstance(model, Custom):
        return {"model": "custom", "factory": model.factory, "kwargs": dict(model.kwargs)}
    made = {"model": model.name, "num_classes": num_classes, "in_channels": in_channels}
    width = model.width if isinstance(model, Catalog) else None
    return made if width is None else {**made, "width": width}


def architecture_of(place: Path, model: schema.Model, images: Images) -> dict[str, Any]:
    """The architecture of a stored network: its own, or for a bare state dict the keys ``model.*``.

    Raises:
        CheckpointError: its description cannot be read.
        ConfigError: a bare state dict, and the keys name no deep network.
    """
    own = own_architecture(place)
    if own is None and isinstance(model, schema.TwoLayer):
        raise ConfigError(f"model: found {model.name}, accepted is the deep network of {place}")
    return describe(model, images) if own is None else own


def own_architecture(place: Path) -> dict[str, Any] | None:
    """The architecture that a folder holds, empty where it holds none; None of a bare file."""
    if (place / ARCHITECTURE).is_file():
        return checkpoint.read_json(place / ARCHITECTURE)
    if not place.is_dir():
        return None
    found = checkpoint.read_json(place / checkpoint.STATE).get("architecture")
    return found if isinstance(found, dict) else {}


def origin_of(architecture: dict[str, Any]) -> dict[str, Any] | None:
    """What :func:`gfs_dist.networks.save` is told of where a network came from.

    A network that was read from its graph is stored by it again: the factory that its file may
    name was not called, and may not be.
    """
    if "graph" in architecture:
        return None
    return {key: architecture[key] for key in ORIGIN if key in architecture}


def fresh_network(architecture: dict[str, Any], seed: int) -> nn.Module:
    """A described network with weights drawn from ``seed`` alone.

    Raises:
        ConfigError: there is no such network, or its factory raises.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        if architecture["model"] == "custom":
            return networks.make_custom(architecture["factory"], architecture["kwargs"])
        return networks.make(
            architecture["model"],
            architecture["num_classes"],
            architecture["in_channels"],
            width=architecture.get("width", 1.0),
        )


def read_network(path: Path, model: schema.Model, images: Images) -> nn.Module:
    """One deep network, whatever it is stored as (see ``find_checkpoints``), on the CPU.

    Args:
        path: a ``models/NAME`` or checkpoint folder, which describe themselves, or a state dict.
        model: the keys ``model.*``: they describe a state dict, and name the factory that a
            folder may ask for.
        images: decide the number of outputs and channels of a bare state dict.

    Raises:
        CheckpointError: damaged, unsafe, NaN, or not the described network.
        ConfigError: a factory that makes no network, another network than the folder's, or one
            whose factory only the folder names.
    """
    factory = model.factory if isinstance(model, Custom) else None

    def bare(tensors: dict[str, torch.Tensor]) -> nn.Module:
        network = fresh_network(describe(model, images), 0)
        networks.load_state(network, tensors, path)
        return network.eval()

    return _read(path, bare, lambda own: _refuse_another(model, own, path), factory)


def load_network(path: Path, model: schema.TwoLayer) -> TwoLayer:
    """One two-layer network, whatever it is stored as.

    Args:
        path: one place that :func:`gfs_dist.files.find.find_checkpoints` gave.
        model: the keys ``model.*``, which describe a bare file; folders describe themselves.

    Raises:
        CheckpointError: damaged, unsafe, NaN, or not the described network.
    """
    network = _read(
        path,
        lambda tensors: networks.load_tensors(_described(path, tensors, model), tensors, path),
    )
    if not isinstance(network, TwoLayer):
        raise CheckpointError(f"{path}: found a deep network, accepted here is a two-layer one")
    return network


def _read(
    path: Path,
    bare: Callable[[dict[str, torch.Tensor]], nn.Module],
    check: Callable[[dict[str, Any]], None] = lambda _: None,
    factory: str | None = None,
) -> nn.Module:
    """A network from its folder, a checkpoint, or by ``bare`` from the tensors of a file.

    ``check`` refuses the architecture that a folder holds.
    """
    if (path / ARCHITECTURE).is_file():
        check(checkpoint.read_json(path / ARCHITECTURE))
        return networks.load(path, factory=factory)
    found = checkpoint.load(path)
    if not path.is_dir():
        return bare(found.tensors)
    architecture = found.state.get("architecture")
    architecture = architecture if isinstance(architecture, dict) else {}
    check(architecture)
    try:
        weights = path / checkpoint.MODEL
        return networks.load_tensors(architecture, found.tensors, weights, factory=factory)
    except ConfigError as error:
        raise CheckpointError(f"{path / checkpoint.STATE}: {error}") from error


def _described(
    path: Path, tensors: dict[str, torch.Tensor], model: schema.TwoLayer
) -> dict[str, Any]:
    """The architecture of a bare file: ``model.*`` with the number of inputs it holds."""
    hidden = tensors.get("hidden.weight")
    if hidden is None or hidden.ndim != 2:
        raise CheckpointError(
            f"{path}: no two-layer network; found {', '.join(sorted(tensors)[:3]) or 'nothing'}, "
            "accepted hidden.weight (N, d) and output.weight (N); of a deep network say model=NAME"
        )
    if len(hidden) != model.width:
        raise CheckpointError(
            f"{path}: found {len(hidden)} neurons, accepted model.width={model.width}; "
            f"set model.width={len(hidden)} and model.activation"
        )
    return {
        "model": "two_layer",
        "width": len(hidden),
        "features": hidden.shape[1],
        "activation": model.activation,
        "dtype": "float64" if hidden.dtype == torch.float64 else "float32",
    }


def _refuse_another(model: schema.Model, architecture: dict[str, Any], path: Path) -> None:
    """Refuse keys ``model.*`` that name another network than the folder does, or none where the
    folder, which may come from anywhere, names code.

    Two-layer networks are the default, not a choice; a graph may have any name, and needs no code.
    """
    by_code = architecture.get("model") == "custom" and "graph" not in architecture
    if isinstance(model, schema.TwoLayer | Stored):
        if by_code:
            factory = architecture.get("factory")
            words = shlex.join(["model=custom", f"model.factory={factory}"])
            raise ConfigError(
                f"model: {path} is made by {factory}, which is imported only if the command line "
                f"names it too: {words}"
            )
        return
    told: dict[str, object] = {"model": model.name}
    if isinstance(model, Custom):
        told["model.factory"] = model.factory
    if isinstance(model, Catalog) and architecture.get("model") == model.name and model.width:
        told["model.width"] = model.width
    for key, said in told.items():
        own = architecture.get(key.removeprefix("model."), 1.0 if key == "model.width" else None)
        if own not in (None, "graph", said):
            accepted = own if by_code else f"{own}, or no model= at all"
            raise ConfigError(f"{key}: found {said}, but {path} has {own}; accepted {accepted}")


def check_fits(network: nn.Module, images: Images, source: str) -> None:
    """Refuse a network that cannot classify these images.

    Raises:
        ShapeError: it fails on an input, or gives other than a logit for every class; names
            ``source``.
    """
    example = images.inputs(images.x_test[:1]).to(networks.device_of(network))
    shape = tuple(example.shape[1:])
    try:
        with networks.evaluating(network):
            logits = network(example)
    except Exception as error:  # the user's code may raise anything
        words = first_line(error)
        cure = f"; {WRAP}" if isinstance(error, TypeError) else ""
        raise ShapeError(f"{source}: fails on an input of shape {shape}: {words}{cure}") from error
    if getattr(logits, "ndim", 0) != 2 or logits.shape[1] < images.num_classes:
        found = getattr(logits, "shape", None)
        raise ShapeError(
            f"{source}: for one input of shape {shape} its output is "
            f"{type(logits).__name__ if found is None else tuple(found)}, accepted "
            f"(1, {images.num_classes}), a logit for every class"
        )


def read_float32(place: Path, model: schema.Model, images: Images) -> nn.Module:
    """One deep network, evaluating, in float32 as images are.

    Raises:
        CheckpointError: see :func:`read_network`; or it has two layers.
    """
    if architecture_of(place, model, images).get("model") == "two_layer":
        raise CheckpointError(
            f"checkpoint: {place} is a two-layer network, accepted with model={model.name} are "
            "deep ones"
        )
    return read_network(place, model, images).to(torch.float32)


def read_for_training(place: Path, model: schema.Model, spec: DataSpec) -> nn.Module:
    """The network as training takes it: float32, whatever it was pruned in."""
    return read_network(place, model, read_images(spec)).to(torch.float32).requires_grad_()
