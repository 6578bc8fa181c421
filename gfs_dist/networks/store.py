"""Networks by description: made, written and read again (``models/NAME``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.files import atomic, checkpoint
from gfs_dist.networks.two_layer import DTYPES, TwoLayer

ARCHITECTURE = "architecture.json"


def build(architecture: dict[str, Any]) -> TwoLayer:
    """An empty network (all zeros) of the given description.

    Args:
        architecture: ``{"model": "two_layer", "width", "features", "activation", "dtype"}``.

    Raises:
        ConfigError: unknown model, a fact that is missing, unknown or of the wrong type.
    """
    model = architecture.get("model")
    if not isinstance(model, str) or model not in MODELS:
        raise ConfigError(f"model: found {model!r}, accepted {', '.join(MODELS)}")
    return MODELS[model](architecture)


def load_tensors(
    architecture: dict[str, Any], tensors: dict[str, Tensor], source: Path | str
) -> TwoLayer:
    """A network of the given description with the given weights, in the described dtype.

    Shapes are compared before anything is allocated.

    Raises:
        CheckpointError: a tensor is missing, too many, of another shape or not floating; names
            ``source`` and the first that differs.
    """
    with torch.device("meta"):
        network = build(architecture)
    expected = network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        wanted = tuple(expected[name].shape) if name in expected else "no such tensor"
        found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        if found != wanted:
            raise CheckpointError(f"{source}: tensor {name!r}: found {found}, accepted {wanted}")
        if not tensors[name].is_floating_point():
            raise CheckpointError(
                f"{source}: tensor {name!r}: found {tensors[name].dtype}, accepted floating point"
            )
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    network.load_state_dict({name: tensor.clone() for name, tensor in typed.items()}, assign=True)
    return network.requires_grad_()


def save(folder: Path | str, network: TwoLayer) -> None:
    """Write ``architecture.json`` and ``model.safetensors``, whole or not at all.

    Raises:
        StorageError: disk full, no permission, missing parent folder.
    """
    with atomic.folder(folder) as aside:
        facts = {"format": checkpoint.FORMAT, **network.architecture}
        atomic.write_json(aside / ARCHITECTURE, facts)
        checkpoint.write_tensors(aside / checkpoint.MODEL, network.state_dict())


def load(folder: Path | str) -> TwoLayer:
    """Read a network that :func:`save` wrote.

    Raises:
        CheckpointError: missing, damaged, or the weights do not fit the description.
    """
    folder = Path(folder)
    architecture = checkpoint.read_json(folder / ARCHITECTURE)
    tensors = checkpoint.read_tensors(folder / checkpoint.MODEL)
    try:
        return load_tensors(architecture, tensors, folder / checkpoint.MODEL)
    except ConfigError as error:
        raise CheckpointError(f"{folder / ARCHITECTURE}: {error}") from error


def _two_layer(architecture: dict[str, Any]) -> TwoLayer:
    for key in ("width", "features"):
        value = architecture.get(key)
        # bool counts as int in Python; 2**28 keeps hostile numbers from overflowing sizes.
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**28:
            raise ConfigError(f"model.{key}: found {value!r}, accepted a whole number from 1")
    dtype = architecture.get("dtype", "float64")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConfigError(f"model.dtype: found {dtype!r}, accepted {', '.join(DTYPES)}")
    return TwoLayer(
        architecture["width"],
        architecture["features"],
        str(architecture.get("activation", "tanh")),
        DTYPES[dtype],
    )


MODELS: dict[str, Callable[[dict[str, Any]], TwoLayer]] = {"two_layer": _two_layer}
