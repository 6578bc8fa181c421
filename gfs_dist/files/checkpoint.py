"""Named tensors as files, and checkpoints: tensors with a state in JSON; reads trust nothing.

A checkpoint folder holds ``model.safetensors``, ``state.json`` and, where training keeps more
than weights, ``optimizer.safetensors``. Plain ``.safetensors`` and ``.pt`` state dicts of others
are read too, the latter without ever running their code.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gfs_dist._environment import refuse_unsafe_environment
from gfs_dist.errors import CheckpointError, StorageError, first_line
from gfs_dist.files import atomic
from gfs_dist.files.checksums import fingerprint
from gfs_dist.files.untrusted import STATE, TENSOR_SUFFIXES, read_json
from gfs_dist.records import FORMAT
from gfs_dist.runtime.resources import free_memory_bytes

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
DTYPES = (
    *(torch.bool, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
)
STORED = tuple(dtype for dtype in DTYPES if dtype != torch.complex128)
"""What safetensors has a name for."""


class Checkpoint(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        tensors: the network's state dict, on the CPU; floating ones are finite.
        state: ``state.json`` (format, iteration, ...); empty for a bare file.
        optimizer: further tensors that training goes on from; may be empty.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    optimizer: dict[str, Tensor]


def save(
    folder: Path | str,
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    optimizer: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint folder, whole or not at all.

    Args:
        folder: its parent exists.
        state: content of ``state.json``; ``format`` and ``fingerprint`` are added.

    Raises:
        StorageError: disk full, no permission.
    """
    content = {"format": FORMAT, **state, "fingerprint": _fingerprint(tensors, optimizer or {})}
    with atomic.folder(folder) as aside:
        write_tensors(aside / MODEL, tensors)
        if optimizer:
            write_tensors(aside / OPTIMIZER, optimizer)
        atomic.write_json(aside / STATE, content)


def load(path: Path | str) -> Checkpoint:
    """Read a checkpoint folder, a ``.safetensors`` file or a ``.pt``/``.pth`` state dict.

    Raises:
        CheckpointError: missing, truncated, changed after it was written, of a newer format,
            unsafe (a pickle that asks for code), or with NaN or infinity; names the file.
    """
    path = Path(path)
    if not path.is_dir():
        return Checkpoint(read_tensors(path), {}, {})
    state = read_json(path / STATE)
    tensors = read_tensors(path / MODEL)
    optimizer = read_tensors(path / OPTIMIZER) if (path / OPTIMIZER).exists() else {}
    if state.get("fingerprint") != _fingerprint(tensors, optimizer):
        raise CheckpointError(f"{path}: its tensors are not those that {STATE} describes")
    return Checkpoint(tensors, state, optimizer)


def write_tensors(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
    *,
    durable: bool = True,
) -> None:
    """Write named tensors as safetensors, atomically; shared ones once for each name.

    Args:
        path: its folder is there already; several processes may write the same file.
        metadata: texts kept beside them.
        durable: the file outlasts a power cut.

    Raises:
        StorageError: names the file and the reason of the system.
    """
    path = Path(path)
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    with atomic.replacing(path, durable=durable) as aside:
        try:
            safetensors.torch.save_file(plain, aside, metadata)
        except SafetensorError as error:  # it has the reason of the system in its text only
            raise StorageError(f"{path}: cannot be written: {error}") from error


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read named tensors from a ``.safetensors`` or ``.pt``/``.pth`` file.

    Raises:
        CheckpointError: see :func:`load`; or larger than the memory that is free.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if path.suffix not in TENSOR_SUFFIXES:
        raise CheckpointError(
            f"{path}: found {path.suffix!r}, accepted {', '.join(TENSOR_SUFFIXES)}"
        )
    if (size := path.stat().st_size) > (free := free_memory_bytes()):
        raise CheckpointError(
            f"{path}: has {size / 2**30:,.1f} GiB, found {free / 2**30:,.1f} GiB of memory free"
        )
    if path.suffix != TENSOR_SUFFIXES[0]:
        tensors = _read_pickle(path)
    else:
        try:
            tensors = safetensors.torch.load_file(path)
        except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error
    for name, tensor in tensors.items():
        _refuse_unusual(f"{path}: tensor {name!r}", tensor)
    return tensors


def _read_pickle(path: Path) -> dict[str, Tensor]:
    refuse_unsafe_environment(str(path))
    try:
        if zipfile.is_zipfile(path):  # torch does not compress: one that unpacks to more is refused
            with zipfile.ZipFile(path) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > path.stat().st_size:
                raise ValueError(f"it unpacks to {size:,} bytes")
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors or is damaged; accepted: a state dict"
        ) from error
    except Exception as error:  # damaged bytes make the reader raise anything
        raise CheckpointError(f"{path}: not a whole state dict: {first_line(error)}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and _is_plain(value) for name, value in content.items()
    ):
        raise CheckpointError(f"{path}: accepted is a dict of dense tensors by name (a state dict)")
    return {name: value.detach() for name, value in content.items()}


def _is_plain(value: object) -> bool:
    """A dense tensor that holds its numbers (not sparse, quantised or without storage)."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
    )


def _refuse_unusual(where: str, tensor: Tensor) -> None:
    """Refuse an unusual dtype, numbers that the file does not hold, NaN and infinity."""
    if tensor.dtype not in DTYPES:
        raise CheckpointError(
            f"{where}: found {tensor.dtype}, accepted bool, whole numbers, float16 to float64"
        )
    if tensor.nbytes > (held := tensor.untyped_storage().nbytes()):
        raise CheckpointError(
            f"{where}: found shape {tuple(tensor.shape)} with {held:,} bytes of numbers, accepted "
            f"{tensor.nbytes:,}"
        )
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    wrong = ~torch.isfinite(tensor)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        raise CheckpointError(f"{where} is {tensor[index].item()} at index {index}")


def _fingerprint(tensors: dict[str, Tensor], optimizer: dict[str, Tensor]) -> str:
    both = (sorted(tensors.items()), sorted(optimizer.items()))
    return fingerprint(*(tensor for group in both for _, tensor in group))
