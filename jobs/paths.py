"""Paths in a configuration, made independent of the folder that a command was typed in."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

from gfs_dist.errors import ConfigError

INPUTS = ("checkpoint", "path", "data.root", "data.path", "record", "budget.widths")
"""Keys that name a file or folder to read."""

FILES_OR_WORDS = ("partition", "graph")
"""Keys that do so where the value ends in ``.json``."""

OUTPUTS = ("out", "resume")
PATHS = (*INPUTS, *FILES_OR_WORDS, *OUTPUTS)


def with_absolute_paths(config: Any) -> Any:
    """A copy of ``config`` whose paths start at the root."""
    config = copy.deepcopy(config)
    for key, value in paths_of(config):
        if value is not None and (key not in FILES_OR_WORDS or value.endswith(".json")):
            section, _, name = key.rpartition(".")
            setattr(attrgetter(section)(config) if section else config, name, _absolute(value))
    return config


def refuse_urls(values: Iterable[tuple[str, Any]]) -> None:
    """Nothing is read or written as a URL; else ``s3://`` would become the name of a folder.

    Args:
        values: keys, of which those of paths count, and what they are set to.

    Raises:
        ConfigError: a path is one; says how a run folder gets there.
    """
    for key, value in values:
        if key in PATHS and isinstance(value, str) and "://" in value:
            raise ConfigError(
                f"{key}: found {value}, accepted a path that all machines see: ranks write there "
                "with locks and renames, which object stores lack; gfs fetch ID URL copies a run "
                "folder to one"
            )


def paths_of(config: Any) -> list[tuple[str, Any]]:
    """All keys of paths, and what they are set to; None for those that a command lacks."""
    return [(key, _get(config, key)) for key in PATHS]


def unseen_inputs(config: Any) -> list[str]:
    """``key: path`` of what is to be read and is not there on this machine."""
    found = [(key, _get(config, key)) for key in (*INPUTS, "resume")]
    return [f"{key}: {path}" for key, path in found if path is not None and not Path(path).exists()]


def _get(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def _absolute(path: str) -> str:
    return str(Path(path).absolute())
