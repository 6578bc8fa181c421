"""What the schema of every command has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

NAMED = ("model.factory", "factory", "runtime.address")
"""Keys that name code to be imported and machines to be asked: where a stored configuration sets
one, which may be anybody's, it counts only if the command line names the same."""


def value_of(config: Any, key: str) -> Any:
    """What ``key`` (``a.b``) is set to; None where ``config`` lacks it."""
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def named(config: Any) -> dict[str, str]:
    """The keys of :data:`NAMED` that ``config`` sets, and to what.

    ``runtime.address=auto`` is no machine of a file's choice.
    """
    found = {key: value_of(config, key) for key in NAMED}
    return {key: value for key, value in found.items() if value not in (None, "auto")}


@contextmanager
def unsent() -> Iterator[None]:
    """While this lasts ``gfs submit`` sends nothing, and an interruption says so."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("nothing was submitted") from error


@dataclass
class Job:
    """One command."""

    def settle(self) -> None:
        """Replace null where the default depends on another key."""

    def check(self) -> None:
        """Refuse values that do not go together.

        Raises:
            ConfigError: names the keys.
        """
