"""Paths in a configuration, made independent of the folder that a command was typed in."""

from __future__ import annotations

import copy
from operator import attrgetter
from pathlib import Path
from typing import Any

INPUTS = ("checkpoint", "path", "data.root", "data.path", "record", "budget.widths")
"""Keys that name a file or folder to read."""

FILES_OR_WORDS = ("partition", "graph")
"""Keys that do so where the value ends in ``.json``."""

OUTPUTS = ("out", "resume")


def with_absolute_paths(config: Any) -> Any:
    """A copy of ``config`` whose paths start at the root."""
    config = copy.deepcopy(config)
    for key in (*INPUTS, *FILES_OR_WORDS, *OUTPUTS):
        value = _get(config, key)
        if value is not None and (key not in FILES_OR_WORDS or value.endswith(".json")):
            section, _, name = key.rpartition(".")
            setattr(attrgetter(section)(config) if section else config, name, _absolute(value))
    return config


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
