"""Paths in a configuration: which keys hold one, what can be one, and what must be there.

:func:`check_job` is asked before torch and Ray are loaded; jobs check the same again when they read
and write, which is all that callers from Python have.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gfs_dist.config.cluster import SUBMITTED
from gfs_dist.config.groups import set_value, value_of
from gfs_dist.config.overrides import nearest
from gfs_dist.config.stored import CONFIG, read_stored
from gfs_dist.errors import ConfigError
from gfs_dist.files import RunFolder
from gfs_dist.files.find import find_checkpoints, find_runs
from gfs_dist.urls import below, check_ray_address, check_url, is_url

INPUTS = (
    "checkpoint", "path", "data.root", "data.path", "data.tokenizer", "model.path", "record",
    "budget.widths",
)  # fmt: skip
"""Keys that name a file or folder to read."""

WORDS = {
    "partition": ("contiguous", "strided"),
    "graph": ("none", "line", "ring", "star", "tree", "random:SEED"),
}
"""Keys that name a JSON file or one of these; written out, for they are checked before torch."""

OUTPUTS = ("out", "resume")
PATHS = (*INPUTS, *WORDS, *OUTPUTS)

INTO = "into"
"""Where ``gfs fetch`` copies to, a path or any URL."""

NAME_BYTES = 255
"""Of one name in a path, on every file system that Linux uses."""

WRITES_ON = ("cut", "report")
"""Commands that write into the run folder they are given."""


def with_absolute_paths(config: Any) -> Any:
    """A copy of ``config`` whose paths start at the root."""
    config = copy.deepcopy(config)
    for key, value in _local_paths(config, PATHS):
        set_value(config, key, str(Path(value).absolute()))
    return config


def unseen_inputs(config: Any) -> list[str]:
    """``key: path`` of each input that does not exist on this machine."""
    paths = _local_paths(config, (*INPUTS, *WORDS, "resume"))
    return [f"{key}: {path}" for key, path in paths if not Path(path).exists()]


def _local_paths(config: Any, keys: Iterable[str]) -> list[tuple[str, str]]:
    """Those of ``keys`` that hold a path now: not null, no URL, and no word."""
    found = [(key, value_of(config, key)) for key in keys]
    return [
        (key, value)
        for key, value in found
        if value is not None and not is_url(value) and (key not in WORDS or value.endswith(".json"))
    ]


def paths_of(config: Any) -> list[tuple[str, Any]]:
    """All keys of paths with their values; None for those that a command lacks."""
    return [(key, value_of(config, key)) for key in (*PATHS, INTO)]


def check_paths(command: str, values: Iterable[tuple[str, Any]]) -> None:
    """Refuse what can be no path, and URLs that are not of run folders.

    Unrefused, ``s3://`` would become the name of a folder.

    Args:
        command: whose keys they are.
        values: keys with their values; those that hold no path are passed over.

    Raises:
        ConfigError: a path is empty, too long or unreadable; a URL is of an unknown kind, or where
            only a path is accepted.
    """
    for key, value in values:
        if key not in (*PATHS, INTO) or not isinstance(value, str):
            continue
        if not is_url(value):
            check_path(key, value)
            continue
        if key != INTO and (key not in OUTPUTS or command not in SUBMITTED):
            raise ConfigError(
                f"{key}: found {value}, accepted a path; only the run folders that "
                f"gfs {', '.join(SUBMITTED)} write may be URLs (out=URL, resume=URL)"
            )
        check_url(key, value)


def check_path(key: str, path: Path | str) -> None:
    """Refuse a path that no file can have here, whether there is one or not.

    Raises:
        ConfigError: names ``key``, what was found and why not.
    """
    try:
        if not str(path):
            raise ValueError("it is empty")
        if any(len(os.fsencode(name)) > NAME_BYTES for name in Path(path).parts):
            raise ValueError(f"a name in it is longer than {NAME_BYTES} bytes")
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{key}: found {str(path)!r}, accepted a path ({why})") from error


def check_job(command: str, config: Any) -> None:
    """Refuse a job that would end at once: its inputs, its cluster, and where it writes.

    Raises:
        InputError: as :func:`check_inputs`; its run folder cannot be written or is not empty; or
            nothing answers at ``runtime.address``.
    """
    check_inputs(command, config)
    address = value_of(config, "runtime.address")
    if address is not None:
        check_ray_address(address)
    key = "path" if command in WRITES_ON else "resume"
    place = getattr(config, key, None)
    if command == "report" and config.out is not None:
        RunFolder.check_new(config.out)
    elif place is not None and not is_url(place):
        RunFolder.check_writable(key, Path(place))
    elif place is None and command in SUBMITTED:
        RunFolder.check_new(config.out)


def sweep_folder(configs: Sequence[Any]) -> str | None:
    """The folder of a sweep, in which its points have the run folders 0, 1, ...; None of others."""
    places = [getattr(c, "resume", None) or getattr(c, "out", None) for c in configs]
    if None in places:
        return None
    folder = str(places[0]).rpartition("/")[0]
    fits = bool(folder) and places == [below(folder, str(n)) for n in range(len(places))]
    return folder if fits else None


def check_sweep(configs: Sequence[Any]) -> None:
    """Refuse a new sweep whose folder holds anything: it gets a report too.

    Raises:
        RunFolderError: as :meth:`RunFolder.check_new`.
    """
    folder = sweep_folder(configs)
    if folder is not None and not any(getattr(config, "resume", None) for config in configs):
        RunFolder.check_new(folder)


def check_inputs(command: str, config: Any) -> None:
    """Refuse a job whose inputs are not there, or not what it takes.

    Raises:
        InputError: names the key, what was found and what is accepted.
    """
    if getattr(config, "checkpoint", None) is not None:
        own = config.checkpoint == value_of(config, "model.path")
        find_checkpoints(config.checkpoint, "model.path" if own else "checkpoint")
    if hasattr(config, "path"):
        _check_positional(command, Path(config.path))
    for place in getattr(config, "others", None) or []:
        check_path("others", place)
        find_runs(place)
    if unseen := unseen_inputs(config):
        raise ConfigError(f"{unseen[0]} does not exist")
    for key, accepted in WORDS.items() if command == "prune" else ():
        found, names = getattr(config, key), [word.partition(":")[0] for word in accepted]
        if found.partition(":")[0] not in names and not Path(found).is_file():
            raise ConfigError(
                f"{key}: found {found!r}, accepted {', '.join(accepted)} or a JSON file"
                + nearest(found, names)
            )


def _check_positional(command: str, path: Path) -> None:
    """``gfs COMMAND PATH``."""
    if command == "cut":
        read_stored("prune", str(path), "path")
    elif command == "report":
        find_runs(path)
    elif command == "advise":
        read_stored("pretrain", str(path), "path")
        find_checkpoints(path, "path")
    elif command != "evaluate" or not (path / CONFIG).is_file():
        find_checkpoints(path, "path")
