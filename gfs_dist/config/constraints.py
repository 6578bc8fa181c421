"""What values a key accepts beyond its type: rules that stand in the annotations of the schema."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Any, Protocol

_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text that is not empty",
    list[float]: "numbers in brackets",
    list[int]: "whole numbers in brackets",
    list[str]: "words in brackets",
    dict[str, Any]: "names and values in braces",
}


class Rule(Protocol):
    """One condition on a value that is not null."""

    words: str

    def holds(self, value: Any) -> bool: ...


class Among:
    """One of a few words."""

    def __init__(self, *accepted: str) -> None:
        self.accepted = accepted
        self.words = ", ".join(accepted)

    def holds(self, value: Any) -> bool:
        return value in self.accepted


class AtLeast:
    """``minimum`` or more."""

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum
        self.words = f"{minimum} or more"

    def holds(self, value: Any) -> bool:
        return bool(value >= self.minimum)


class Above:
    """More than ``bound``."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.words = f"above {bound}"

    def holds(self, value: Any) -> bool:
        return bool(value > self.bound)


class Below:
    """Less than ``bound``."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.words = f"below {bound}"

    def holds(self, value: Any) -> bool:
        return bool(value < self.bound)


class Each:
    """A list, not empty, of which every value follows ``rule``."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.words = f"each {rule.words}"

    def holds(self, value: Any) -> bool:
        return bool(value) and all(self.rule.holds(one) for one in value)


@dataclass(frozen=True)
class Accepted:
    """All that is asked of the values of one key."""

    kind: Any
    null: bool
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, schema: type, name: str) -> Accepted:
        """What the key ``name`` of a schema class accepts, from its annotation."""
        hint = typing.get_type_hints(schema, include_extras=True)[name]
        rules: tuple[Rule, ...] = ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *rest = typing.get_args(hint)
            rules = tuple(rest)
        if isinstance(hint, types.UnionType):
            (kind,) = (k for k in typing.get_args(hint) if k is not types.NoneType)
            return cls(kind, True, rules)
        return cls(hint, False, rules)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words to choose from; none if the key is not such a one."""
        return next((rule.accepted for rule in self.rules if isinstance(rule, Among)), ())

    def __str__(self) -> str:
        """``a whole number, 1 or more, or null``."""
        kind = [] if self.choices else [_KINDS[self.kind]]
        null = ["or null"] if self.null else []
        return ", ".join([*kind, *(rule.words for rule in self.rules), *null])

    def has_type(self, value: Any) -> bool:
        """True if ``value`` is of the kind, without a conversion (3 is not true)."""
        if value is None:
            return self.null
        if self.kind == list[float]:
            return isinstance(value, list) and all(_is_number(number) for number in value)
        if self.kind == list[int]:
            return isinstance(value, list) and all(type(number) is int for number in value)
        if self.kind == list[str]:
            return isinstance(value, list) and all(isinstance(word, str) for word in value)
        if self.kind == dict[str, Any]:
            return isinstance(value, dict) and all(isinstance(key, str) for key in value)
        if isinstance(value, bool):
            return self.kind is bool
        return isinstance(value, (int, float) if self.kind is float else self.kind)

    def holds(self, value: Any) -> bool:
        """True if ``value``, of the right type, is in range; no text is empty."""
        return value is None or (value != "" and all(rule.holds(value) for rule in self.rules))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
