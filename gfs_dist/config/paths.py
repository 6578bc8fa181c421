"""Paths in a configuration, made independent of the folder that a command was typed in."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

from gfs_dist.config.cluster import SUBMITTED
from gfs_dist.config.groups import value_of
from gfs_dist.errors import ConfigError
from gfs_dist.urls import check_url, is_url

INPUTS = ("checkpoint", "path", "data.root", "data.path", "record", "budget.widths")
"""Keys that name a file or folder to read."""

FILES_OR_WORDS = ("partition", "graph")
"""Keys that do so where the value ends in ``.json``."""

OUTPUTS = ("out", "resume")
PATHS = (*INPUTS, *FILES_OR_WORDS, *OUTPUTS)

NAME_BYTES = 255
"""Of one name in a path, on every file system that Linux uses."""

INTO = "into"
"""Where ``gfs fetch`` copies to, a path or any URL."""


def with_absolute_paths(config: Any) -> Any:
    """A copy of ``config`` whose paths start at the root."""
    config = copy.deepcopy(config)
    for key, value in paths_of(config):
        if value is not None and _is_path(key, value):
            section, _, name = key.rpartition(".")
            setattr(attrgetter(section)(config) if section else config, name, _absolute(value))
    return config


def check_paths(command: str, values: Iterable[tuple[str, Any]]) -> None:
    """Refuse what cannot be a path at all, and URLs that are not of run folders: else ``s3://``
    would become the name of a folder.

    Args:
        command: whose keys they are.
        values: keys, of which those of paths count, and what they are set to.

    Raises:
        ConfigError: one is empty, too long or not readable as a path; a URL of another kind than
            is known here, or of another path than a run folder.
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


def paths_of(config: Any) -> list[tuple[str, Any]]:
    """All keys of paths, and what they are set to; None for those that a command lacks."""
    return [(key, value_of(config, key)) for key in (*PATHS, INTO)]


def unseen_inputs(config: Any) -> list[str]:
    """``key: path`` of what is to be read and is not there on this machine."""
    found = [(key, value_of(config, key)) for key in (*INPUTS, *FILES_OR_WORDS, "resume")]
    paths = [
        (key, path)
        for key, path in found
        if path is not None and not is_url(path) and _is_path(key, path)
    ]
    return [f"{key}: {path}" for key, path in paths if not Path(path).exists()]


def _is_path(key: str, value: str) -> bool:
    return key not in FILES_OR_WORDS or value.endswith(".json")


def _absolute(path: str) -> str:
    return path if is_url(path) else str(Path(path).absolute())
