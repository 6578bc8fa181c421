"""What a key accepts: the annotation in its schema, checked by pydantic, in words for messages.

Ranges are bounds of ``annotated_types``, words to choose from a ``Literal``.
"""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gfs_dist.config.overrides import nearest
from gfs_dist.errors import ConfigError

_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text that is not empty",
    dict[str, Any]: "names and values in braces",
}
_ELEMENTS = {int: "whole numbers", float: "numbers", str: "words"}
_BOUNDS = {Ge: "{0.ge} or more", Gt: "above {0.gt}", Lt: "below {0.lt}"}


@cache
def annotations_of(schema: Any) -> dict[str, Any]:
    """Name to annotation of each key of a schema class."""
    return typing.get_type_hints(schema, include_extras=True)


def checked(key: str, annotation: Any, value: Any) -> Any:
    """``value`` in the type of its key; of conversions only 3 to 3.0, and of numbers to text.

    Raises:
        ConfigError: missing (Hydra's ``???``), of another type, out of range, NaN or empty text;
            names key, found and accepted.
    """
    if value == "???":
        raise ConfigError(f"{key}: has no default and was not given, accepted {key}=VALUE")
    if kind(annotation) is str:
        value = str(value) if type(value) in (int, float) else value  # 0.5 where 50% may stand too
        if isinstance(value, str) and value:
            return value  # names of files need not be UTF-8, which pydantic would insist on
    try:
        return _adapter(annotation).validate_python(value)
    except ValidationError as error:
        hint = nearest(str(value), choices(annotation))
        shown = {"True": "true", "False": "false", "None": "null"}.get(repr(value), repr(value))
        message = f"{key}: found {shown}, accepted {accepted(annotation)}{hint}"
        raise ConfigError(message) from error


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    config = ConfigDict(strict=True, str_min_length=1, allow_inf_nan=False)
    return TypeAdapter(annotation, config=config)


def kind(annotation: Any) -> Any:
    """The annotation without null and bounds: ``int`` of ``Annotated[int | None, Ge(1)]``."""
    return _parts(annotation)[0]


def choices(annotation: Any) -> tuple[str, ...]:
    """The words to choose from; none if any value of a type is accepted."""
    bare = kind(annotation)
    return typing.get_args(bare) if typing.get_origin(bare) is Literal else ()


def accepted(annotation: Any) -> str:
    """In words: ``a whole number, 1 or more, or null``."""
    bare, null, bounds = _parts(annotation)
    words = [", ".join(choices(bare)) or _KINDS.get(bare, "")]
    if typing.get_origin(bare) is list:
        (element,) = typing.get_args(bare)
        of, _, inner = _parts(element)
        each = [*filter(None, [", ".join(choices(of))]), *_bounds(inner)]
        words = [f"{_ELEMENTS.get(of, 'words')} in brackets", *(f"each {word}" for word in each)]
    return ", ".join([*words, *_bounds(bounds), *(["or null"] if null else [])])


def _bounds(bounds: tuple[Any, ...]) -> list[str]:
    return [_BOUNDS[type(bound)].format(bound) for bound in bounds if type(bound) in _BOUNDS]


def _parts(annotation: Any) -> tuple[Any, bool, tuple[Any, ...]]:
    """An annotation's type, whether it accepts null, and its bounds."""
    if typing.get_origin(annotation) is Annotated:
        annotation, *bounds = typing.get_args(annotation)
        bare, null, inner = _parts(annotation)
        return bare, null, (*inner, *bounds)
    if typing.get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (one for one in typing.get_args(annotation) if one is not types.NoneType)
        bare, _, inner = _parts(annotation)
        return bare, True, inner
    return annotation, False, ()
