"""Finished parts of a long measurement, kept in one file so that none is computed twice."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gfs_dist
from gfs_dist import jobs
from gfs_dist.errors import RunFolderError
from gfs_dist.files import atomic
from gfs_dist.files.untrusted import read_json

Cell = dict[str, Any]


class Cells:
    """Cells by name; each is stored as soon as it is there.

    Args:
        path: of the JSON file, new or of an earlier call.
        facts: what was measured, plain JSON.

    Raises:
        RunFolderError: the file holds cells of other facts; names the first that differs.
    """

    def __init__(self, path: Path, facts: Cell) -> None:
        self.path, self.facts = path, facts
        self.source = source()
        self.found = self._read()

    def once(self, name: str, make: Callable[[], Cell]) -> Cell:
        """The cell of this name, made if it is not there yet.

        It says how long that took (``seconds``), and by which code (``source``).
        """
        if name not in self.found:
            began = time.perf_counter()
            cell = make()
            cell = {**cell, "seconds": time.perf_counter() - began, "source": self.source}
            self.found = {**self._read(), name: cell}  # another call may have measured other parts
            atomic.write_json(self.path, {"format": 1, "facts": self.facts, "cells": self.found})
            print(f"{name}: {_short(cell)}", flush=True)
        return self.found[name]

    def _read(self) -> dict[str, Cell]:
        if not self.path.exists():
            return {}
        before = read_json(self.path)
        for key in self.facts.keys() | before["facts"].keys():
            if before["facts"].get(key) != self.facts.get(key):
                raise RunFolderError(
                    f"{self.path}: {key}: found {before['facts'].get(key)!r}, this run has "
                    f"{self.facts.get(key)!r}; measure into another folder"
                )
        return dict(before["cells"])


def source() -> str:
    """A name for the content of all modules of the package."""
    digest = hashlib.sha256()
    for folder in (gfs_dist.__path__[0], jobs.__path__[0]):
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _short(cell: Cell) -> str:
    values = {key: value for key, value in cell.items() if isinstance(value, float | int | str)}
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )
