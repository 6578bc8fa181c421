"""What a finished run holds is known by its SHA-256: ``files`` of ``report.json``.

Listed are ``config.yaml`` and what lies in :data:`FOLDERS`: all that is computed from. Pages,
plots, logs, events and what trackers write are not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gfs_dist.errors import RunFolderError
from gfs_dist.files import atomic
from gfs_dist.files.no_follow import inside, open_regular

CONFIG = "config.yaml"
RESULTS = ("paths", "models", "finetune")
FOLDERS = (*RESULTS, "checkpoints")
PARTIAL = ".partial.json"
"""End of the name of a search in progress."""

FILES, OWN = "files", "sha256"
"""Keys of ``report.json``: SHA-256 by name, and that of the report itself without this key."""

Stamp = tuple[int, int, int]


class Damage(NamedTuple):
    """A listed file that is not as it was.

    Attributes:
        name: relative to the run folder.
        gone: it is not there; else it holds something else.
    """

    name: str
    gone: bool

    @property
    def words(self) -> str:
        """After its name in a sentence."""
        return "is gone" if self.gone else "is not what it was (its SHA-256 is another)"

    @property
    def result(self) -> str | None:
        """The name of the result that it belongs to; None for configuration and checkpoints."""
        kind, _, rest = self.name.partition("/")
        name = rest.partition("/")[0].removesuffix(".json")
        return name if kind in RESULTS else None

    def is_of_network(self, result: str) -> bool:
        """Whether it belongs to the network of ``result``."""
        return self.name.startswith(f"models/{result}/")


class Checksums:
    """SHA-256 of the files of a run folder; each is read once, until another takes its place.

    Args:
        root: the run folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, tuple[Stamp, str]] = {}

    def listed(self) -> dict[str, str]:
        """By name, of all files there that ``report.json`` lists."""
        names = [CONFIG] if (self._root / CONFIG).exists() else []
        for kind in FOLDERS:
            for folder, folders, files in os.walk(self._root / kind):
                folders[:] = [name for name in folders if not name.startswith(atomic.PREFIX)]
                here = Path(folder).relative_to(self._root)
                names += [(here / name).as_posix() for name in files if not _is_passing(name)]
        names = [name for name in names if not (self._root / name).is_symlink()]  # never ours
        return {name: self._digest(name) for name in sorted(names)}

    def damage(self, recorded: Mapping[str, str], part: str = "") -> list[Damage]:
        """What is no longer as ``recorded``, of the file or folder ``part``.

        Raises:
            RunFolderError: a name leads out of the folder, or what it names cannot be read or is no
                regular file.
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


def stamp_of(facts: os.stat_result) -> Stamp:
    """What tells two versions of a file apart."""
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def with_own_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """A report with the SHA-256 of what else it says."""
    return {**content, OWN: _own(content)}


def verify_own_checksum(content: Mapping[str, Any], where: Path | str) -> None:
    """Refuse a report that is not as it was written; one of an earlier version cannot tell.

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


def _is_passing(name: str) -> bool:
    return name.startswith(atomic.PREFIX) or name.endswith(PARTIAL)
