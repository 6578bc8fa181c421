"""Checks of one value and of a whole configuration, with one wording."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from gfs_dist.config.constraints import Accepted
from gfs_dist.config.overrides import nearest
from gfs_dist.errors import ConfigError


def check_type(schema: type, name: str, key: str, value: Any) -> None:
    """Refuse a value that is not of the key's type; OmegaConf alone takes 3 for true.

    Raises:
        ConfigError: names ``key``, found and accepted.
    """
    accepted = Accepted.of(schema, name)
    if not accepted.has_type(value):
        raise ConfigError(f"{key}: found {_shown(value)}, accepted {accepted}")


def check_ranges(config: Any, prefix: str = "") -> None:
    """Refuse the first value of ``config``, an instance of a schema class, outside its range.

    Raises:
        ConfigError: names key, found and accepted.
    """
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{key}.")
            continue
        accepted = Accepted.of(type(config), field.name)
        if not accepted.holds(value) or (isinstance(value, float) and not math.isfinite(value)):
            hint = nearest(str(value), accepted.choices)
            raise ConfigError(f"{key}: found {_shown(value)}, accepted {accepted}{hint}")


def _shown(value: Any) -> str:
    """As it would be typed."""
    return {"True": "true", "False": "false", "None": "null"}.get(repr(value), repr(value))
