"""What the schema of every command has."""

from __future__ import annotations

from dataclasses import dataclass


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
