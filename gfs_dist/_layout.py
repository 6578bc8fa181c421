"""Where jobs/ and conf/ are: beside this package in a checkout, inside it once installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_MARKER = ".gfs"


def conf_folder() -> Path:
    """The folder of our own configurations.

    Raises:
        FileNotFoundError: the installation is broken; names both places.
    """
    places = [_PACKAGE / "conf", _PACKAGE.parent / "conf"]
    for place in places:
        if (place / _MARKER).is_file():
            return place
    raise FileNotFoundError(f"conf/{_MARKER}: found in neither {places[0]} nor {places[1]}")


def bind_jobs() -> None:
    """Make the top-level folder jobs/ importable as ``gfs_dist.jobs``.

    Nothing is to be done where it lies inside the package (a wheel).
    """
    name = "gfs_dist.jobs"
    folder = _PACKAGE.parent / "jobs"
    if name in sys.modules or (_PACKAGE / "jobs").is_dir():
        return
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    sys.modules["gfs_dist"].jobs = module  # type: ignore[attr-defined]
