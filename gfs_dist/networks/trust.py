"""Which factories a stored network may name: the user's own code, or what the user says.

A file that came from elsewhere could name any function of any installed package, and many of them
run what they are given. So a factory named by a file is called only if it lies in the user's own
code: on the path, outside the standard library and outside installed packages. Any other has to
be named again by the caller.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import site
import sys
import sysconfig
from pathlib import Path
from typing import Any

from gfs_dist.errors import ConfigError

OWN = "gfs_dist"


def refuse_foreign(factory: str) -> None:
    """Do nothing where ``package.module:function`` lies in the user's own code; imports nothing.

    A package that cannot be found is none of this function's concern.

    Raises:
        ConfigError: it belongs to Python, to an installed package or to gfs-dist; says what to do.
    """
    _refuse(factory, factory.partition(":")[0])


def refuse_borrowed(factory: str, function: Any) -> None:
    """Do nothing where ``function``, which ``factory`` names, was written in the user's own code.

    Raises:
        ConfigError: the user's module only imports it from elsewhere.
    """
    while isinstance(function, functools.partial):
        function = function.func
    _refuse(factory, getattr(function, "__module__", None) or "builtins")


def _refuse(factory: str, module: str) -> None:
    package = module.partition(".")[0]
    if not _is_own_code(package):
        raise ConfigError(
            f"model.factory: {factory} is named by a file and not your own code ({package} is "
            f"installed), so it is not called; if it is right, say so: factory={factory!r}"
        )


def _is_own_code(package: str) -> bool:
    if package == OWN or package in sys.stdlib_module_names:
        return False
    place = _place(package)
    return place is None or not any(place.is_relative_to(folder) for folder in _installed())


def _place(package: str) -> Path | None:
    """Where a top-level package lies, as :func:`make_custom` would find it."""
    spec = importlib.machinery.PathFinder.find_spec(package, [str(Path.cwd()), *sys.path])
    if spec is None:  # an editable installation has a finder of its own
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # a module without a spec, such as __main__
            return None
    places = [spec.origin, *(spec.submodule_search_locations or [])] if spec else []
    found = next((place for place in places if place), None)
    return Path(found).resolve() if found else None


def _installed() -> list[Path]:
    """Folders of the standard library and of installed packages."""
    named = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = [*named, *site.getsitepackages(), site.getusersitepackages()]
    return [Path(folder).resolve() for folder in folders]
