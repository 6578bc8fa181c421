"""Path files of a run folder: written while a search goes on, read when it is continued."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gfs_dist.errors import CheckpointError, RunFolderError
from gfs_dist.files import RunFolder, atomic
from gfs_dist.files.untrusted import read_json
from gfs_dist.pruning.pruner import LayerPath
from gfs_dist.records import FORMAT, PathFile, read_path
from gfs_dist.selection.path import GreedyPath

WRITE_EVERY_S = 0.5
PARTIAL = ".partial"


@dataclass
class PathFiles:
    """``paths/RESULT.json`` of a two-layer network, ``paths/RESULT/LAYER.json`` of a deep one.

    What trials of widths weighed the layers with is in ``sizing/RESULT.json``.
    A search in progress has a file of its own beside them. Of a deep network a file also names its
    ``layer`` and the ``unit`` of its losses (see :class:`LayerPath`). While a layer is searched the
    losses in its file are those that the search decides by; once it is finished they are those of
    the layer's outputs.

    Attributes:
        folder: of the run.
        result: the name of the result.
        facts: what all files say besides: samples, objective, weights, dense_loss, and ``inputs``,
            fingerprints by name of what the search depends on.
        key: under which a user named the run folder, for messages.
    """

    folder: RunFolder
    result: str
    facts: dict[str, Any]
    key: str = "resume"
    _written_s: float = -math.inf

    def layers(self, channels: Mapping[str, int]) -> dict[str, LayerPath]:
        """The layers whose search is finished; ``channels`` are the candidates of each.

        Raises:
            RunFolderError: a file is damaged, or belongs to other inputs; names which.
        """
        found = {}
        for layer, count in channels.items():
            file = self.file(layer)
            if file.exists():
                stored = self._stored(file)
                path = self._path(stored, count, file)
                unit = stored.get("unit")
                if not isinstance(unit, float) or not 0.0 < unit < math.inf:
                    words = f"the path of layer {layer!r} has unit {unit!r}"
                    raise RunFolderError(f"{self.key}: {words}")
                found[layer] = LayerPath(path, path.loss, unit)
        return found

    def read(self, num_candidates: int, layer: str = "") -> GreedyPath | None:
        """The picks that an earlier run left, to be replayed; None if it left none.

        Raises:
            RunFolderError: the file is damaged, or belongs to other inputs; names which.
        """
        for file in (self.file(layer), self.file(layer, PARTIAL)):
            if file.exists():
                return self._path(self._stored(file), num_candidates, file)
        return None

    def write_partial(self, path: GreedyPath, layer: str = "") -> None:
        """Write the picks made so far, if there are any and the last time is a while ago."""
        if len(path) and time.monotonic() - self._written_s > WRITE_EVERY_S:
            self._write(self.file(layer, PARTIAL), path, layer)
            self._written_s = time.monotonic()

    def write(self, path: GreedyPath) -> None:
        """Write a finished path; a file with the same picks from an earlier run stays."""
        file = self.file()
        if file.exists():
            done = self._path(self._stored(file), path.num_candidates, file)
            if done.picks == path.picks:
                return
        self._finish(file, path, "")

    def write_layer(self, layer: str, found: LayerPath) -> None:
        path = replace(found.path, loss=found.loss)
        self._finish(self.file(layer), path, layer, unit=found.unit)

    def write_weights(self, weights: Mapping[str, float]) -> None:
        """Keep what trials found, for other budgets."""
        atomic.write_json(self._weights, {"format": FORMAT, "weights": dict(weights)})
        self.folder.written()

    def read_weights(self) -> dict[str, float]:
        """By layer, what trials found; empty if there were none.

        Raises:
            RunFolderError: the file is damaged; names it.
        """
        if not self._weights.exists():
            return {}
        try:
            found: Any = read_json(self._weights).get("weights")
        except CheckpointError as error:
            raise RunFolderError(f"{self.key}: {error}") from error
        values = found.values() if isinstance(found, dict) else [None]
        if not all(isinstance(value, float) and 0 < value < math.inf for value in values):
            raise RunFolderError(f"{self.key}: {self._weights} holds no weights of layers")
        return dict(found)

    @property
    def _weights(self) -> Path:
        return self.folder.sizing(self.result)

    def file(self, layer: str = "", ending: str = "") -> Path:
        name = f"{self.result}/{file_name(layer)}" if layer else self.result
        return self.folder.path_file(name + ending)

    def _finish(self, file: Path, path: GreedyPath, layer: str, **more: float) -> None:
        self._write(file, path, layer, **more)
        self.file(layer, PARTIAL).unlink(missing_ok=True)
        self._written_s = -math.inf

    def _write(self, file: Path, path: GreedyPath, layer: str, **more: float) -> None:
        """Write a path; consumers that are refitted have no coefficients."""
        refitted = self.facts["objective"] == "least_squares"
        content = {
            "format": FORMAT,
            "neurons": path.num_candidates,
            **self.facts,
            **({"layer": layer} if layer else {}),
            **more,
            "picks": path.picks,
            "loss": path.loss,
            "coefficients": None if refitted else path.coefficients().tolist(),
            "step_sizes": path.step_sizes,
            "gap": path.gap,
            "stop_reason": path.stop_reason,
        }
        atomic.write_json(file, content)
        self.folder.written()

    def _stored(self, file: Path) -> PathFile:
        """What a file says, if it belongs to the same inputs."""
        try:
            stored = read_path(read_json(file))
        except CheckpointError as error:
            raise RunFolderError(f"{self.key}: {error}") from error
        inputs = stored.get("inputs")
        if not isinstance(inputs, dict):
            raise self._no_path(file, "it does not name its inputs")
        for name, now in self.facts["inputs"].items():
            if inputs.get(name) != now:
                raise RunFolderError(
                    f"{self.key}: {name} changed since {file} was written; bring the old one back, "
                    "or start a new run"
                )
        return stored

    def _path(self, stored: PathFile, num_candidates: int, file: Path) -> GreedyPath:
        path = GreedyPath(num_candidates)
        if stored.get("neurons") != num_candidates:
            raise self._no_path(file, f"neurons {stored.get('neurons')}, not {num_candidates}")
        try:
            for pick, loss, step in zip(
                stored["picks"], stored["loss"], stored["step_sizes"], strict=True
            ):
                if not (isinstance(pick, int) and 0 <= pick < num_candidates):
                    raise ValueError(f"pick {pick!r}")
                if not (math.isfinite(loss) and 0.0 < step <= 1.0):
                    raise ValueError(f"loss {loss!r}, step size {step!r}")
                path.append(pick, loss, step)
            path.gap = [None if gap is None else float(gap) for gap in stored["gap"]]
            if len(path.gap) != len(path):
                raise ValueError(f"{len(path.gap)} gaps of {len(path)} picks")
        except (KeyError, TypeError, ValueError) as error:
            raise self._no_path(file, error) from error
        return path

    def _no_path(self, file: Path, why: object) -> RunFolderError:
        return RunFolderError(f"{self.key}: {file} holds no path: {why}")


def file_name(layer: str) -> str:
    """A layer's name as that of a file; other characters than a file's become ``=`` and their code.

    Most names of layers are names of files already; but torch lets a user call one ``a/b``.
    """
    return re.sub(
        r"[^A-Za-z0-9_.+-]|^[^A-Za-z0-9_]",
        lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()),
        layer,
    )
