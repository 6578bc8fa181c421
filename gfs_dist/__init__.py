"""Distributed greedy forward selection: prune networks neuron by neuron, on any number of workers.

Everything public is loaded when it is first used, so that ``import gfs_dist`` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

from gfs_dist._version import __version__

_LAZY = {
    "load": "gfs_dist.networks:load",
    "prune": "gfs_dist.api:prune",
    "select": "gfs_dist.api:select",
    "theory": "gfs_dist.theory",
}
"""Public name, and where it is: a module, or ``module:attribute``."""

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'gfs_dist' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    found = importlib.import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
