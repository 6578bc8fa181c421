"""Checkpoints and reports where a user says. Needs no torch: wrong places are told before that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfs_dist.errors import CheckpointError, RunFolderError
from gfs_dist.files import RunFolder
from gfs_dist.files.run_folder import refuse_damaged
from gfs_dist.files.untrusted import ARCHITECTURE, STATE, TENSOR_SUFFIXES, read_json


def find_checkpoints(path: Path | str, key: str = "checkpoint") -> list[tuple[int, Path]]:
    """Iteration and place of each checkpoint that ``path`` names, in order of iterations.

    Args:
        path: a run folder (all its checkpoints), a checkpoint folder, a stored network
            (``models/NAME``), or a ``.safetensors``, ``.pt`` or ``.pth`` file. What does not
            know its iteration counts as 0.
        key: under which the user named it, for messages.

    Raises:
        CheckpointError: nothing of these, or a run folder without checkpoints.
        RunFolderError: it lies in a run folder and is not what that folder's report says.
    """
    path = Path(path)
    refuse_damaged(path, key)
    if (path / STATE).is_file():
        return [(read_iteration(read_json(path / STATE)), path)]
    if (path.suffix in TENSOR_SUFFIXES and path.is_file()) or (path / ARCHITECTURE).is_file():
        return [(0, path)]
    found = RunFolder(path).checkpoints()
    if not found:
        raise CheckpointError(
            f"{key}: found none in {path}; accepted are a run folder with checkpoints/, a "
            "checkpoint folder, a models/NAME folder, a .safetensors or .pt file"
        )
    for _, place in found:  # a run may be rid of some of its checkpoints on purpose
        refuse_damaged(place, key)
    return found


def holds_deep(path: Path | str) -> bool:
    """Whether the networks at ``path`` say themselves that they are deep ones.

    Raises:
        CheckpointError: nothing is there, or what it says of itself cannot be read.
    """
    place = find_checkpoints(path)[-1][1]
    if (place / ARCHITECTURE).is_file():
        architecture: Any = read_json(place / ARCHITECTURE)
    elif place.is_dir():
        architecture = read_json(place / STATE).get("architecture")
    else:
        return False
    return isinstance(architecture, dict) and architecture.get("model") != "two_layer"


def find_report(path: Path | str) -> RunFolder:
    """The run folder at ``path``.

    Raises:
        RunFolderError: it holds no report.
    """
    folder = RunFolder(path)
    if not folder.report.is_file():
        raise RunFolderError(f"path: found {folder.path}, accepted a run folder with report.json")
    return folder


def read_iteration(state: dict[str, Any]) -> int:
    """Steps of training that a checkpoint has seen.

    Raises:
        CheckpointError: it does not say.
    """
    iteration = state.get("iteration")
    if not isinstance(iteration, int) or iteration < 0:
        raise CheckpointError(f"{STATE}: iteration: found {iteration!r}")
    return iteration
