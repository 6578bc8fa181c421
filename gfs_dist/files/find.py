"""Finds checkpoints and reports at a place that a user names; needs no torch, to refuse at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gfs_dist.errors import CheckpointError, RunFolderError
from gfs_dist.files import RunFolder
from gfs_dist.files.checksums import CONFIG, FOLDERS
from gfs_dist.files.hf_folder import is_hf_folder
from gfs_dist.files.mirror import REPORT
from gfs_dist.files.untrusted import ARCHITECTURE, STATE, TENSOR_SUFFIXES, read_json


def find_checkpoints(path: Path | str, key: str = "checkpoint") -> list[tuple[int, Path]]:
    """Iteration and place of each checkpoint at ``path``, in order of iterations.

    Args:
        path: a run folder (all its checkpoints), a checkpoint folder, a stored network
            (``models/NAME``), a folder of a Hugging Face model, or a ``.safetensors``, ``.pt`` or
            ``.pth`` file. One without an iteration counts as 0.
        key: under which the user named it, for messages.

    Raises:
        CheckpointError: nothing of these, or a run folder without checkpoints.
        RunFolderError: it lies in a run folder and differs from that folder's report.
    """
    path = Path(path)
    refuse_damaged(path, key)
    if (path / STATE).is_file():
        return [(read_iteration(read_json(path / STATE)), path)]
    is_stored = (path / ARCHITECTURE).is_file() or is_hf_folder(path)
    if (path.suffix in TENSOR_SUFFIXES and path.is_file()) or is_stored:
        return [(0, path)]
    found = RunFolder(path).checkpoints()
    if not found:
        raise CheckpointError(
            f"{key}: found none in {path}; accepted are a run folder with checkpoints/, a "
            "checkpoint folder, a models/NAME folder, a Hugging Face folder, a .safetensors or .pt "
            "file"
        )
    for _, place in found:  # checkpoints of a run may have been removed on purpose
        refuse_damaged(place, key)
    return found


def holds_deep(path: Path | str) -> bool:
    """Whether the architecture stored at ``path`` is that of a deep network.

    Raises:
        CheckpointError: nothing is there, or the architecture cannot be read.
    """
    place = find_checkpoints(path)[-1][1]
    if (place / ARCHITECTURE).is_file():
        architecture: Any = read_json(place / ARCHITECTURE)
    elif is_hf_folder(place):
        return True
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


def find_runs(path: Path | str) -> list[RunFolder]:
    """The run folder at ``path``, or those of the points of a sweep, in order, with a report.

    Raises:
        RunFolderError: neither has one.
    """
    path = Path(path)
    points = sorted((p for p in path.glob("*") if p.name.isdecimal()), key=lambda p: int(p.name))
    whole = [RunFolder(p) for p in points if (p / CONFIG).is_file() and (p / REPORT).is_file()]
    return whole if whole and not (path / CONFIG).is_file() else [find_report(path)]


def read_iteration(state: dict[str, Any]) -> int:
    """Steps of training up to a checkpoint.

    Raises:
        CheckpointError: its state does not hold them.
    """
    iteration = state.get("iteration")
    if not isinstance(iteration, int) or iteration < 0:
        raise CheckpointError(f"{STATE}: iteration: found {iteration!r}")
    return iteration


def refuse_damaged(place: Path | str, key: str) -> None:
    """Refuse a file or folder of a run folder that differs from its report; else do nothing.

    Raises:
        RunFolderError: as :meth:`RunFolder.refuse_damage`.
    """
    place = Path(os.path.realpath(place))
    for folder in place.parents:
        name = place.relative_to(folder).as_posix()
        is_run = (folder / CONFIG).is_file() and (folder / REPORT).is_file()
        if is_run and name.partition("/")[0] in FOLDERS:
            RunFolder(folder).refuse_damage(key, name)
            return
