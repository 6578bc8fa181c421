"""Networks made by a user's own function."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from gfs_dist.errors import ConfigError, error_line


def make_custom(factory: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """The network that ``factory(**kwargs)`` returns.

    Args:
        factory: ``package.module:function``; modules of the current folder can be named too.

    Raises:
        ConfigError: it cannot be imported, is no function or one of Python's own, raises, or
            returns no ``nn.Module``.
    """
    function = find_factory(factory)
    with _current_folder_importable():
        try:
            network = function(**kwargs)
        except (Exception, SystemExit) as error:  # user's code may raise anything
            raise ConfigError(f"model.factory: {factory} raised {error_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"model.factory: {factory} returned {_kind(network)}, accepted a torch.nn.Module"
        )
    for name, parameter in network.named_parameters():
        if is_lazy(parameter):
            raise ConfigError(
                f"model.factory: {factory} returned a network whose {name!r} has no shape yet; "
                "give it an input before it is returned"
            )
    return network


def find_factory(factory: str) -> Callable[..., object]:
    """The function ``package.module:function``, not yet called.

    Raises:
        ConfigError: it cannot be imported, is no function, or is one of Python's own.
    """
    name, _, attribute = factory.partition(":")
    if not name or not attribute:
        raise ConfigError(f"model.factory: found {factory!r}, accepted package.module:function")
    _refuse_python_own(factory, name)
    try:
        with _current_folder_importable():
            module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # user's code may raise anything
        raise ConfigError(f"model.factory: importing {name} raised {error_line(error)}") from error
    function = getattr(module, attribute, None)
    if function is None:
        where = getattr(module, "__file__", None) or name
        raise ConfigError(f"model.factory: found no {attribute} in {where}")
    if not callable(function):
        raise ConfigError(
            f"model.factory: {factory} is {_kind(function)}, accepted a function that returns a "
            "torch.nn.Module"
        )
    written = function
    while isinstance(written, functools.partial):
        written = written.func
    builtin = inspect.isbuiltin(written)
    _refuse_python_own(factory, "builtins" if builtin else getattr(written, "__module__", None))
    return function


def _refuse_python_own(factory: str, module: str | None) -> None:
    """Refuse functions of Python itself: many run commands or remove files, even in a dry run."""
    if module is not None and module.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(
            f"model.factory: {factory} is built in or of Python's own library, accepted a function "
            "that returns a torch.nn.Module"
        )


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Import from the current folder, as ``python -m`` does and a console script does not."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _kind(value: object) -> str:
    """``dict``, or ``the class Net`` for a class that was not called."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
