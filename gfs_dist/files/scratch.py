"""Tensors in files for a while: they need not outlast a power cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gfs_dist.errors import StorageError
from gfs_dist.files import atomic


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a ``.safetensors`` file; several processes may write the same one.

    Args:
        path: its folder is there already.
        tensors: by name, none a view of another.
        metadata: texts kept beside them.

    Raises:
        StorageError: names the file and the system's reason.
    """
    path = Path(path)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    aside = atomic.name_beside(path)
    with atomic.storage_errors(path):
        try:
            save_file(plain, aside, metadata)
            aside.replace(path)
        except SafetensorError as error:  # it has the system's reason in its text only
            raise StorageError(f"{path}: cannot be written: {error}") from error
        finally:
            aside.unlink(missing_ok=True)
