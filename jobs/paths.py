"""Paths in a configuration, made independent of the folder that a command was typed in."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

from gfs_dist.errors import ConfigError
from gfs_dist.jobs.cluster_keys import SUBMITTED
from gfs_dist.jobs.command import value_of
from gfs_dist.urls import check_url, is_url

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


def check_urls(command: str, values: Iterable[tuple[str, Any]]) -> None:
    """Only run folders may be URLs; else ``s3://`` would become the name of a folder.

    Args:
        command: whose keys they are.
        values: keys, of which those of paths count, and what they are set to.

    Raises:
        ConfigError: another path is one, or one of a kind that is not known here.
    """
    for key, value in values:
        if key not in PATHS or not isinstance(value, str) or not is_url(value):
            continue
        if key not in OUTPUTS or command not in SUBMITTED:
            raise ConfigError(
                f"{key}: found {value}, accepted a path; only the run folders that "
                f"gfs {', '.join(SUBMITTED)} write may be URLs (out=URL, resume=URL)"
            )
        check_url(key, value)


def paths_of(config: Any) -> list[tuple[str, Any]]:
    """All keys of paths, and what they are set to; None for those that a command lacks."""
    return [(key, value_of(config, key)) for key in PATHS]


def unseen_inputs(config: Any) -> list[str]:
    """``key: path`` of what is to be read and is not there on this machine."""
    found = [(key, value_of(config, key)) for key in (*INPUTS, "resume")]
    paths = [(key, path) for key, path in found if path is not None and not is_url(path)]
    return [f"{key}: {path}" for key, path in paths if not Path(path).exists()]


def _absolute(path: str) -> str:
    return path if is_url(path) else str(Path(path).absolute())
