"""What values a key of the schema accepts, in words and as a check."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

from gfs_dist.errors import ConfigError
from gfs_dist.jobs.overrides import nearest

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def accepted(schema: type, name: str) -> str:
    """What the key ``name`` of a schema class accepts: ``a whole number, 1 or more, or null``."""
    kind, optional = _kind(schema, name)
    rules = _rules(schema, name)
    words = ", ".join(rules["accepted"]) if "accepted" in rules else _WORDS.get(kind, "a group")
    for rule, form in (("at_least", "{} or more"), ("above", "above {}"), ("below", "below {}")):
        if rule in rules:
            words += ", " + form.format(rules[rule])
    return words + (", or null" if optional else "")


def check_type(schema: type, name: str, key: str, value: Any) -> None:
    """Refuse a value that the key does not take; OmegaConf alone takes 3 for true.

    Raises:
        ConfigError: names key, found and accepted.
    """
    kind, optional = _kind(schema, name)
    good = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}[kind]
    if value is None and optional:
        return
    if not isinstance(value, good) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{key}: found {_shown(value)}, accepted {accepted(schema, name)}")


def check_ranges(config: Any, prefix: str = "") -> None:
    """Refuse the first value of ``config``, an instance of a schema class, outside its range.

    Raises:
        ConfigError: names key, found and accepted.
    """
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{key}.")
        elif value is not None and not _fits(_rules(type(config), field.name), value):
            among = field.metadata.get("accepted", ())
            raise ConfigError(
                f"{key}: found {_shown(value)}, accepted {accepted(type(config), field.name)}"
                + (nearest(str(value), among) if len(among) > 1 else "")
            )


def _fits(rules: Any, value: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (
        ("accepted" not in rules or value in rules["accepted"])
        and ("at_least" not in rules or value >= rules["at_least"])
        and ("above" not in rules or value > rules["above"])
        and ("below" not in rules or value < rules["below"])
    )


def _rules(schema: type, name: str) -> Any:
    (field,) = [f for f in dataclasses.fields(schema) if f.name == name]
    return field.metadata


def _kind(schema: type, name: str) -> tuple[type, bool]:
    hint = typing.get_type_hints(schema)[name]
    if isinstance(hint, types.UnionType):
        (kind,) = [k for k in typing.get_args(hint) if k is not type(None)]
        return kind, True
    return hint, False


def _shown(value: Any) -> str:
    """As it would be typed."""
    return {"True": "true", "False": "false", "None": "null"}.get(repr(value), repr(value))
