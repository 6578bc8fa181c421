"""Networks as folders (``models/NAME``): ``architecture.json`` and ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.files import atomic, checkpoint
from gfs_dist.files.untrusted import ARCHITECTURE, read_json
from gfs_dist.networks.graph.json_values import UnstorableError
from gfs_dist.networks.graph.tensors import refuse_non_finite
from gfs_dist.networks.models.two_layer import TwoLayer
from gfs_dist.networks.storage.equality import inputs_of, plain_copy
from gfs_dist.networks.storage.rebuild import load_tensors
from gfs_dist.networks.storage.verified import verified_architecture

LINE = 160


def save(
    folder: Path | str,
    network: nn.Module,
    *,
    example: Tensor | Sequence[Tensor] | None = None,
    origin: dict[str, Any] | None = None,
) -> None:
    """Write ``architecture.json`` and ``model.safetensors``, whole or not at all.

    Args:
        folder: where; replaced if it is there.
        network: not modified. A deep one is stored as it evaluates; its dtype is kept.
        example: inputs of ``forward``, a tensor or several; only two-layer networks need none.
        origin: of the network before anything was removed, as keys of the configuration:
            ``{"model": NAME, "num_classes", "in_channels"}`` or
            ``{"model": "custom", "factory", "kwargs"}``.

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
            architecture, tensors = verified_architecture(copy, inputs, origin)
        except UnstorableError as error:
            raise ConfigError(f"model: it cannot be stored: {error}") from error
    with atomic.folder(folder) as aside:
        content = {"format": checkpoint.FORMAT, **architecture}
        atomic.write_text(aside / ARCHITECTURE, _readable(content) + "\n")
        checkpoint.write_tensors(aside / checkpoint.MODEL, tensors)


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
        return load_tensors(architecture, tensors, folder / checkpoint.MODEL, factory=factory)
    except ConfigError as error:
        raise CheckpointError(f"{folder / ARCHITECTURE}: {error}") from error


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
