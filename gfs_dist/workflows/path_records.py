"""Paths in a run folder: written while a search goes on, read when it is resumed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfs_dist.errors import CheckpointError, RunFolderError
from gfs_dist.files import RunFolder, atomic
from gfs_dist.files.untrusted import read_json
from gfs_dist.records import FORMAT
from gfs_dist.selection.path import GreedyPath


@dataclass(frozen=True)
class PathRecord:
    """The file of one result's path; a search in progress has one beside it.

    Attributes:
        folder: of the run.
        name: of the result; of a layer's path, ``RESULT/FILE``.
        facts: what the file says besides the path: neurons, samples, objective, weights,
            dense_loss, and ``inputs``, fingerprints by name of what the search depends on.
        key: under which a user named the run folder, for messages.
    """

    folder: RunFolder
    name: str
    facts: dict[str, Any]
    key: str = "resume"

    def write(
        self, path: GreedyPath, *, finished: bool, more: dict[str, Any] | None = None
    ) -> Path:
        """Write the path; once it is finished the file of the search in progress goes.

        ``more`` is said besides. Consumers that are refitted have no coefficients.
        """
        refitted = self.facts["objective"] == "least_squares"
        content = {
            "format": FORMAT,
            **self.facts,
            **(more or {}),
            "picks": path.picks,
            "loss": path.loss,
            "coefficients": None if refitted else path.coefficients().tolist(),
            "step_sizes": path.step_sizes,
            "gap": path.gap,
            "stop_reason": path.stop_reason,
        }
        file = self._finished if finished else self._partial
        atomic.write_json(file, content)
        if finished:
            self._partial.unlink(missing_ok=True)
        self.folder.written()
        return file

    def keep(self, path: GreedyPath) -> Path:
        """Write the finished path, unless an earlier run has: its file then stays what it is."""
        done = self.finished()
        if done is not None and done[0].picks == path.picks:
            return self._finished
        return self.write(path, finished=True)

    def read(self) -> GreedyPath | None:
        """The picks that an earlier run left, to be replayed; None if it left none.

        Raises:
            RunFolderError: the file is damaged, or belongs to other inputs; names which.
        """
        for file in (self._finished, self._partial):
            if file.exists():
                return self._parse(self._read(file), file)
        return None

    def finished(self) -> tuple[GreedyPath, dict[str, Any]] | None:
        """The finished path and all that its file says; None if there is none.

        Raises:
            RunFolderError: see :meth:`read`.
        """
        if not self._finished.exists():
            return None
        stored = self._read(self._finished)
        return self._parse(stored, self._finished), stored

    @property
    def _finished(self) -> Path:
        return self.folder.path_file(self.name)

    @property
    def _partial(self) -> Path:
        return self.folder.path_file(self.name + ".partial")

    def _read(self, file: Path) -> dict[str, Any]:
        """What a file says, if it belongs to the same inputs."""
        try:
            stored = read_json(file)
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

    def _parse(self, stored: dict[str, Any], file: Path) -> GreedyPath:
        path = GreedyPath(self.facts["neurons"])
        if stored.get("neurons") != path.num_candidates:
            raise self._no_path(file, f"neurons {stored.get('neurons')}, not {path.num_candidates}")
        try:
            for pick, loss, step in zip(
                stored["picks"], stored["loss"], stored["step_sizes"], strict=True
            ):
                if not (isinstance(pick, int) and 0 <= pick < path.num_candidates):
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
