"""Reads samples and networks, of two layers or deep, and checks that they fit each other."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist import data, networks
from gfs_dist.config import commands as schema
from gfs_dist.config.groups import Catalog, Custom, HuggingFace, Named, Stored
from gfs_dist.data import DataSpec, DeepData, Images, Texts
from gfs_dist.errors import CheckpointError, ConfigError, DataError, ShapeError, first_line
from gfs_dist.files import checkpoint
from gfs_dist.files.find import find_checkpoints
from gfs_dist.files.hf_folder import is_hf_folder
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.measure.inputs import run
from gfs_dist.networks.models.builders import PACKAGES, make_built
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.pruning.calibration.batches import WRAP
from gfs_dist.workflows.measures import example_of

ORIGIN = ("model", "num_classes", "in_channels", "width", "factory", "kwargs")


@functools.lru_cache(maxsize=1)
def read_samples(spec: DataSpec) -> DeepData:
    """Both splits; read once a process."""
    return data.load_samples(spec)


def read_images(spec: DataSpec) -> Images:
    """The same of images, or other inputs with classes.

    Raises:
        DataError: the data is text.
    """
    found = read_samples(spec)
    if not isinstance(found, Images):
        raise DataError(f"data: found {spec.name}, accepted here is data with classes")
    return found


def describe(model: schema.Model, images: DeepData) -> dict[str, Any]:
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
    if isinstance(model, HuggingFace):
        return {"model": "hf", "path": model.path}
    if isinstance(model, Named):
        own: dict[str, Any] = {"num_classes": num_classes}
        own |= {"in_chans": in_channels} if model.name == "timm" else {}
        return {"model": model.name, "name": model.network, "kwargs": own | dict(model.kwargs)}
    made = {"model": model.name, "num_classes": num_classes, "in_channels": in_channels}
    width = model.width if isinstance(model, Catalog) else None
    return made if width is None else {**made, "width": width}


def architecture_of(place: Path | None, model: schema.Model, images: DeepData) -> dict[str, Any]:
    """The architecture of a stored network: its own, or for a bare state dict the keys ``model.*``.

    ``place``: None of the network that the keys make.

    Raises:
        CheckpointError: its description cannot be read.
        ConfigError: a bare state dict, and the keys name no deep network.
    """
    own = None if place is None else own_architecture(place)
    if own is None and isinstance(model, schema.TwoLayer):
        raise ConfigError(f"model: found {model.name}, accepted is the deep network of {place}")
    return describe(model, images) if own is None else own


def own_architecture(place: Path) -> dict[str, Any] | None:
    """The architecture that a folder holds, empty where it holds none; None of a bare file."""
    if (place / ARCHITECTURE).is_file():
        return checkpoint.read_json(place / ARCHITECTURE)
    if is_hf_folder(place):
        return {"model": "hf", "path": str(place)}
    if not place.is_dir():
        return None
    found = checkpoint.read_json(place / checkpoint.STATE).get("architecture")
    return found if isinstance(found, dict) else {}


def origin_of(architecture: dict[str, Any]) -> dict[str, Any] | None:
    """What :func:`gfs_dist.networks.save` is told of where a network came from.

    A network that was read from its graph is stored by it again: the factory that its file may
    name was not called, and may not be.
    """
    if "graph" in architecture or architecture.get("model") in PACKAGES:
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
        if architecture["model"] in PACKAGES:
            made = {key: architecture.get(key) for key in ("path", "name", "kwargs")}
            return make_built(architecture["model"], **made)[0]
        return networks.make(
            architecture["model"],
            architecture["num_classes"],
            architecture["in_channels"],
            width=architecture.get("width", 1.0),
        )


def read_network(path: Path | None, model: schema.Model, images: DeepData) -> nn.Module:
    """One deep network, whatever it is stored as (see ``find_checkpoints``), on the CPU.

    Args:
        path: a ``models/NAME`` or checkpoint folder, which describe themselves, a folder of a
            Hugging Face model, or a state dict; None: the network that ``model.*`` makes, with the
            weights that it has then.
        model: the keys ``model.*``: they describe a state dict, and name the factory that a
            folder may ask for.
        images: decide the number of outputs and channels of a bare state dict.

    Raises:
        CheckpointError: damaged, unsafe, NaN, or not the described network.
        ConfigError: a factory that makes no network, another network than the folder's, or one
            whose factory only the folder names.
    """
    if path is None:
        return fresh_network(describe(model, images), 0).eval()
    factory = model.factory if isinstance(model, Custom) else None

    def bare(tensors: dict[str, Tensor]) -> nn.Module:
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
    bare: Callable[[dict[str, Tensor]], nn.Module],
    check: Callable[[dict[str, Any]], None] = lambda _: None,
    factory: str | None = None,
) -> nn.Module:
    """A network from its folder, a checkpoint, or by ``bare`` from the tensors of a file.

    ``check`` refuses the architecture that a folder holds.
    """
    if (path / ARCHITECTURE).is_file():
        check(checkpoint.read_json(path / ARCHITECTURE))
        return networks.load(path, factory=factory)
    if is_hf_folder(path):
        return fresh_network({"model": "hf", "path": str(path)}, 0)
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


def _described(path: Path, tensors: dict[str, Tensor], model: schema.TwoLayer) -> dict[str, Any]:
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
        if model.name in PACKAGES and own != model.name:
            continue  # a pruned network may be stored otherwise
        if own not in (None, "graph", said):
            accepted = own if by_code else f"{own}, or no model= at all"
            raise ConfigError(f"{key}: found {said}, but {path} has {own}; accepted {accepted}")


def check_fits(network: nn.Module, images: DeepData, source: str) -> None:
    """Refuse a network that cannot classify these images, or take this text.

    Raises:
        ShapeError: it fails on an input, or gives other than a logit for every class; names
            ``source``.
    """
    example = example_of(images).to(networks.device_of(network))
    shape = tuple(example.shape[1:]) if isinstance(example, Tensor) else images.x_test.shape[1:]
    try:
        with networks.evaluating(network):
            outputs = run(network, example)
    except Exception as error:  # the user's code may raise anything
        words = first_line(error)
        cure = f"; {WRAP}" if isinstance(error, TypeError) else ""
        raise ShapeError(f"{source}: fails on an input of shape {shape}: {words}{cure}") from error
    if isinstance(images, Texts):
        return
    logits: Any = outputs.get("logits") if isinstance(outputs, Mapping) else outputs
    if getattr(logits, "ndim", 0) != 2 or logits.shape[1] < images.num_classes:
        found = getattr(logits, "shape", None)
        raise ShapeError(
            f"{source}: for one input of shape {shape} its output is "
            f"{type(logits).__name__ if found is None else tuple(found)}, accepted "
            f"(1, {images.num_classes}), a logit for every class"
        )


def places_of(config: schema.Prune) -> Sequence[tuple[int, Path | None]]:
    """Iteration and place of each checkpoint to prune; no place of a factory's own weights."""
    if config.checkpoint is None:
        return [(0, None)]
    key = "model.path" if isinstance(config.model, HuggingFace) else "checkpoint"
    return find_checkpoints(config.checkpoint, key)


def read_float32(place: Path | None, model: schema.Model, images: DeepData) -> nn.Module:
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
    return read_network(place, model, read_samples(spec)).to(torch.float32).requires_grad_()
