"""The keys of a command once its groups have chosen their options, and what each key accepts.

That is the annotation in its schema, checked by pydantic, in words for messages. Ranges are bounds
of ``annotated_types``, words to choose from a ``Literal``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Lt
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gfs_dist.config.commands import COMMANDS
from gfs_dist.config.groups import GROUPS, OPTION_KEY, Data, Model, Runtime, Train
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


def groups(command: str) -> set[str]:
    """The keys of ``command`` that choose one of several schemas."""
    bases = (Data, Model, Train, Runtime)
    return {key for key, schema in annotations_of(COMMANDS[command]).items() if schema in bases}


class Schema:
    """The keys of ``command`` with the options that ``cfg`` has.

    Attributes:
        sections: name to class of each section and each chosen option.
        keys: full name, ``data.root``, to the annotation that says what the key accepts.

    Raises:
        ConfigError: an option that does not exist.
    """

    def __init__(self, command: str, cfg: DictConfig) -> None:
        self._command, self._cfg = command, cfg
        own = annotations_of(COMMANDS[command])
        sections = {
            name: schema for name, schema in own.items() if dataclasses.is_dataclass(schema)
        }
        chosen = {name: self._option(name) for name in sections.keys() & groups(command)}
        self.sections: dict[str, Any] = sections | chosen
        self.keys = {key: of for key, of in own.items() if key not in sections} | {
            f"{name}.{key}": of
            for name, schema in self.sections.items()
            for key, of in annotations_of(schema).items()
        }

    def _option(self, group: str) -> type:
        key, options = f"{group}.{OPTION_KEY[group]}", GROUPS[group]
        option = OmegaConf.select(self._cfg, key)
        if option not in options:
            hint = nearest(str(option), options)
            raise ConfigError(f"{key}: found {option!r}, accepted {', '.join(options)}{hint}")
        return options[option]

    def unknown(self, key: str) -> ConfigError:
        """The error for a key that the command does not have: whose it is, or the nearest one."""
        group, _, name = key.rpartition(".")
        if group in groups(self._command):
            chosen = self._cfg[group][OPTION_KEY[group]]
            others = [o for o, schema in GROUPS[group].items() if name in annotations_of(schema)]
            if others:
                words = f"{group}={chosen}, it belongs to {group}={', '.join(others)}"
                return ConfigError(f"{key}: not a key of {words}")
        hint = nearest(key, self.keys) or f"; gfs {self._command} --help lists the keys"
        return ConfigError(f"{key}: unknown key of gfs {self._command}{hint}")

    def typed(self) -> Any:
        """The configuration as an instance of the command's class.

        Raises:
            ConfigError: a key is unknown, missing, of the wrong type or out of range.
        """
        flat: Any = OmegaConf.to_container(self._cfg, resolve=True)
        for name in self.sections:
            section = flat.pop(name)
            if not isinstance(section, dict):
                raise ConfigError(f"{name}: found {section!r}, accepted keys and their values")
            flat |= {f"{name}.{key}": value for key, value in section.items()}
        for key in flat:
            if key not in self.keys:
                raise self.unknown(key)
        values = {key: checked(key, of, flat.get(key, "???")) for key, of in self.keys.items()}
        made = {
            name: schema(**{key: values[f"{name}.{key}"] for key in annotations_of(schema)})
            for name, schema in self.sections.items()
        }
        rest = {key: value for key, value in values.items() if "." not in key}
        return COMMANDS[self._command](**made, **rest)
