"""The paths of all layers of one result: written while they are searched, read by later runs."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gfs_dist.errors import RunFolderError
from gfs_dist.files import RunFolder
from gfs_dist.pruning.pruner import LayerPath
from gfs_dist.selection.path import GreedyPath
from gfs_dist.workflows.path_records import PathRecord

WRITE_EVERY_S = 0.5


@dataclass
class LayerRecords:
    """``paths/RESULT/``: one file a layer.

    Besides what the path of a two-layer network says, a file names its ``layer`` and the ``unit``
    of its losses (see :class:`LayerPath`). While a layer is searched the losses in its file are
    those that the search decides by; once it is finished they are those of the layer's outputs.

    Attributes:
        folder: of the run.
        result: whose paths these are.
        facts: what all files say besides: samples, objective, weights, dense_loss, ``inputs``.
        key: under which a user named the run folder, for messages.
    """

    folder: RunFolder
    result: str
    facts: dict[str, Any]
    key: str = "resume"
    _written_s: float = -math.inf

    def read(self, channels: Mapping[str, int]) -> dict[str, LayerPath]:
        """The layers whose search is finished.

        Args:
            channels: candidates of each layer.

        Raises:
            RunFolderError: a file is damaged, or belongs to other inputs; names which.
        """
        found = {}
        for layer, count in channels.items():
            stored = self._record(layer, count).finished()
            if stored is not None:
                path, facts = stored
                found[layer] = LayerPath(path, path.loss, self._unit(layer, facts))
        return found

    def partial(self, layer: str, channels: int) -> GreedyPath | None:
        """The picks of a layer whose search was broken off; None if there are none."""
        return self._record(layer, channels).read()

    def write_partial(self, layer: str, path: GreedyPath) -> None:
        """Write the picks made so far, if there are new ones and the last time is a while ago."""
        if len(path) and time.monotonic() - self._written_s > WRITE_EVERY_S:
            self._record(layer, path.num_candidates).write(
                path, finished=False, more={"layer": layer}
            )
            self._written_s = time.monotonic()

    def write(self, layer: str, found: LayerPath) -> None:
        """Write a path that is finished."""
        path = replace(found.path, loss=found.loss)
        more = {"layer": layer, "unit": found.unit}
        self._record(layer, path.num_candidates).write(path, finished=True, more=more)
        self._written_s = -math.inf

    @property
    def place(self) -> str:
        """The folder, as the report names it."""
        return f"paths/{self.result}"

    def _record(self, layer: str, channels: int) -> PathRecord:
        facts = {"neurons": channels, **self.facts}
        return PathRecord(self.folder, f"{self.result}/{file_name(layer)}", facts, self.key)

    def _unit(self, layer: str, facts: dict[str, Any]) -> float:
        unit = facts.get("unit")
        if not isinstance(unit, float) or not 0.0 < unit < math.inf:
            raise RunFolderError(f"{self.key}: the path of layer {layer!r} has unit {unit!r}")
        return unit


def file_name(layer: str) -> str:
    """A layer's name as that of a file; what a file's name should not hold is ``=`` and its code.

    Most names of layers are names of files already; but torch lets a user call one ``a/b``.
    """
    return re.sub(
        r"[^A-Za-z0-9_.+-]|^[^A-Za-z0-9_]",
        lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()),
        layer,
    )
