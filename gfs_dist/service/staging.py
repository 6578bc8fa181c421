"""The working directory of a job: its configuration and the user's own code, nothing else."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path

from gfs_dist.errors import InputError

CONFIG = "gfs-job.yaml"
_SKIPPED = ("__pycache__", "node_modules", "build", "dist", "site-packages")
_OURS = ("gfs_dist", "jobs", "conf")
_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".npy", ".npz", ".zip", ".tar", ".gz", ".pyc")


def stage(folder: Path, config_text: str, factory: str | None) -> list[str]:
    """Fill ``folder`` with what a job needs; the files of the user's own that are in it.

    Args:
        folder: empty.
        config_text: the configuration as composed.
        factory: ``package.module:function`` of ``model=custom``. All Python files beside its
            package go along, since it may import them, and its package whole but for weights and
            data. What is installed is expected to be installed on the cluster too.

    Raises:
        InputError: the module is not found.
    """
    (folder / CONFIG).write_text(config_text, encoding="utf-8")
    root = None if factory is None else _root(factory.partition(":")[0])
    if root is None:
        return []
    assert factory is not None
    package = factory.partition(":")[0].partition(".")[0]
    copied = []
    for file in _files(root):
        name = file.relative_to(root)
        if file.suffix != ".py" and (name.parts[0] != package or file.suffix in _WEIGHTS):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
        copied.append(name.as_posix())
    return copied


def _root(module: str) -> Path | None:
    """The folder that makes ``module`` importable; None if it is installed."""
    package = module.partition(".")[0]
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        spec = util.find_spec(package)
    finally:
        sys.path.remove(here)
    if spec is None:
        raise InputError(f"model.factory: found no module {package!r} in {here} or installed")
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    file = Path(places[0]).resolve()
    inside = file.is_relative_to(Path(sys.prefix)) or file.is_relative_to(Path(sys.base_prefix))
    if inside and ("site-packages" in file.parts or not file.is_relative_to(here)):
        return None
    if spec.submodule_search_locations:
        return file.parent.parent if spec.origin else file.parent
    return file.parent


def _files(root: Path) -> Iterator[Path]:
    """Files below ``root`` that can be the user's code."""
    ours = _OURS if (root / "gfs_dist" / "service").is_dir() else ()
    for folder, folders, names in os.walk(root):
        top = Path(folder) == root
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in _SKIPPED
            and not (top and name in ours)
            and not _is_apart(Path(folder, name))
        )
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _is_apart(folder: Path) -> bool:
    """An environment, or a run folder."""
    return any((folder / name).exists() for name in ("pyvenv.cfg", "events.jsonl", "report.json"))
