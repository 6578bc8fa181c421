"""SHA-256 of tensors, and of the files of a run folder: ``files`` of its ``report.json``.

Listed are ``config.yaml`` and the files in :data:`FOLDERS`, which later jobs compute from. Pages,
plots, logs, events and the files of trackers are not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from gfs_dist.errors import RunFolderError
from gfs_dist.files import atomic
from gfs_dist.files.untrusted import inside, open_regular

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.yaml"
RESULTS = ("paths", "sizing", "models", "finetune")
FOLDERS = (*RESULTS, "checkpoints")
PARTIAL = ".partial.json"
"""End of the name of a search in progress."""

FILES, OWN = "files", "sha256"
"""Keys of ``report.json``: SHA-256 by name, and that of the report itself without this key."""

Stamp = tuple[int, int, int]
"""Inode, size and modification time of a file: another version has another stamp."""


class Damage(NamedTuple):
    """A listed file that is missing or changed.

    Attributes:
        name: relative to the run folder.
        gone: missing; else its SHA-256 is another.
    """

    name: str
    gone: bool

    @property
    def words(self) -> str:
        """After its name in a sentence."""
        return "is gone" if self.gone else "is not what it was (its SHA-256 is another)"

    @property
    def result(self) -> str | None:
        """Name of the result that the file belongs to; None for configuration and checkpoints."""
        kind, _, rest = self.name.partition("/")
        name = rest.partition("/")[0].removesuffix(".json")
        return name if kind in RESULTS else None


class Checksums:
    """SHA-256 of the files of run folder ``root``; read again only where a stamp changes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, tuple[Stamp, str]] = {}

    def listed(self) -> dict[str, str]:
        """SHA-256 by name of all files that ``report.json`` is to list."""
        names = [CONFIG] if (self._root / CONFIG).exists() else []
        for kind in FOLDERS:
            for folder, folders, files in os.walk(self._root / kind):
                folders[:] = [name for name in folders if not name.startswith(atomic.PREFIX)]
                here = Path(folder).relative_to(self._root)
                whole = [name for name in files if not name.startswith(atomic.PREFIX)]
                names += [(here / name).as_posix() for name in whole if not name.endswith(PARTIAL)]
        names = [name for name in names if not (self._root / name).is_symlink()]  # never ours
        return {name: self._digest(name) for name in sorted(names)}

    def damage(self, recorded: Mapping[str, str], part: str = "") -> list[Damage]:
        """Files that differ from ``recorded``, of the file or folder ``part``.

        Raises:
            RunFolderError: a name leads out of the folder, or the file cannot be read or is no
                regular one.
        """
        found = []
        for name, expected in recorded.items():
            if part and not PurePosixPath(name).is_relative_to(part):
                continue
            try:
                if self._digest(name) != expected:
                    found.append(Damage(name, gone=False))
            except (FileNotFoundError, NotADirectoryError):
                found.append(Damage(name, gone=True))
            except OSError as error:
                raise RunFolderError(
                    f"{self._root / name}: cannot be read: {error.strerror}"
                ) from error
        return found

    def _digest(self, name: str) -> str:
        descriptor = open_regular(inside(self._root, name), os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            stamp = stamp_of(os.fstat(descriptor))
            if self._known.get(name, (None,))[0] != stamp:
                self._known[name] = stamp, hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[name][1]


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp in a file's status."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def with_own_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The report with the SHA-256 of its other content."""
    return {**content, OWN: _own(content)}


def verify_own_checksum(content: Mapping[str, Any], where: Path | str) -> None:
    """Refuse a report that was changed; one of an earlier version has no SHA-256 to check.

    Raises:
        RunFolderError: another hash, or ``files`` that maps no names to hashes.
    """
    rest = {key: value for key, value in content.items() if key != OWN}
    files = content.get(FILES, {})
    if OWN in content and content[OWN] != _own(rest):
        why = f"it is not what it was (its {OWN} is of another report)"
    elif not (isinstance(files, dict) and all(isinstance(value, str) for value in files.values())):
        why = f"{FILES}: found no SHA-256 by name"
    else:
        return
    raise RunFolderError(f"{where}: {why}; bring it back, or remove it and resume the run")


def _own(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(atomic.json_text(dict(content)).encode()).hexdigest()


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 (lower-case hex) over dtype, shape and bytes of each tensor, in order."""
    import torch  # not before it is needed: files that hold no tensors are read without it

    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
