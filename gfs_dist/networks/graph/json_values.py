"""Arguments of layers and functions as JSON, and back.

Numbers, strings, booleans, null and lists are themselves. Everything else is an object with one
key, its kind: ``{"tuple": [...]}``, ``{"slice": [start, stop, step]}``,
``{"dict": {...}}``, ``{"device": "cpu"}``, ``{"node": NAME}`` (the result of an earlier step), or a
kind and a name of :data:`NAMED`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx

from gfs_dist.errors import ConfigError
from gfs_dist.files.checkpoint import STORED


@dataclass(frozen=True)
class StepOutput:
    """Stands for the result of the step called ``name``."""

    name: str


TRAINING = StepOutput("training?")
"""Whether the network is training: a result that is there before the first step."""


def _named(*things: torch.dtype | torch.memory_format) -> dict[str, Any]:
    return {str(thing).removeprefix("torch."): thing for thing in things}


NAMED: dict[str, dict[str, Any]] = {
    "dtype": _named(*STORED),
    "memory_format": _named(
        *(torch.contiguous_format, torch.preserve_format),
        *(torch.channels_last, torch.channels_last_3d),
    ),
    "float": {text: float(text) for text in ("inf", "-inf", "nan")},
    "ellipsis": {"...": ...},
    "mode": {"training": TRAINING},
}
"""Values with a name, by their kind."""

_DEVICE = re.compile(r"cpu|(cuda|mps|xpu)(:\d{1,3})?")
MAX_DEPTH = 8
MAX_WHOLE = 2**62
MAX_PARTS = 50_000


SPLIT_IT = "leave it out, and give the modules around it one by one, each with its own inputs"
"""Cure for a part that cannot be recorded."""

MAKE_IT_PURE = (
    "take hooks, changing attributes, random numbers and changes of parts of tensors out of it"
)
"""Cure for a network that computes something else than its recorded steps."""


class UnstorableError(Exception):
    """A network, or a part of it, cannot be stored; a reason for each kind of architecture."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


def encode(value: Any) -> Any:
    """``value`` as JSON.

    Raises:
        UnstorableError: its kind has no form in JSON.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and abs(value) < MAX_WHOLE:
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    for kind, things in NAMED.items():
        for name, thing in things.items():
            if value is thing:
                return {kind: name}
    if isinstance(value, slice):
        return {"slice": [encode(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, fx.Node | StepOutput):
        return {"mode": "training"} if value == TRAINING else {"node": value.name}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    return _encode_container(value)


def _encode_container(value: Any) -> Any:
    # fx has lists and dicts of its own kind; a tuple with names for its parts is something else.
    if isinstance(value, list):
        return [encode(part) for part in value]
    if type(value) in (tuple, torch.Size):
        return {"tuple": [encode(part) for part in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(part) for key, part in value.items()}}
    words = " ".join(str(value).split())[:60]
    raise UnstorableError(f"an argument is a {type(value).__name__} ({words})")


def decode(content: Any, where: str, depth: int = 0) -> Any:
    """The value that :func:`encode` wrote, with :class:`StepOutput` in the places of results.

    Raises:
        ConfigError: :func:`encode` never writes it, or it is nested too deeply; names ``where``.
    """
    if depth > MAX_DEPTH:
        raise ConfigError(f"{where}: nested more than {MAX_DEPTH} deep")
    if isinstance(content, int) and abs(content) >= MAX_WHOLE:  # more than torch can count
        raise ConfigError(f"{where}: found {str(content)[:60]}, accepted below 2**62")
    if content is None or isinstance(content, bool | int | float | str):
        return content
    if isinstance(content, list):
        return [decode(part, where, depth + 1) for part in content]
    if isinstance(content, dict) and len(content) == 1:
        kind, inner = next(iter(content.items()))
        if isinstance(inner, str):
            return _decode_name(kind, inner, where)
        if kind == "dict" and isinstance(inner, dict):
            return {key: decode(part, where, depth + 1) for key, part in inner.items()}
        if kind in ("tuple", "slice") and isinstance(inner, list):
            parts = [decode(part, where, depth + 1) for part in inner]
            if kind == "tuple" or len(parts) == 3:
                return tuple(parts) if kind == "tuple" else slice(*parts)
    raise ConfigError(f"{where}: found {str(content)[:60]}, accepted values of a description")


def _decode_name(kind: str, name: str, where: str) -> Any:
    if kind == "node":
        return StepOutput(name)
    if kind == "device" and _DEVICE.fullmatch(name):
        return torch.device(name)
    if name in NAMED.get(kind, {}):
        return NAMED[kind][name]
    raise ConfigError(f"{where}: found {kind[:60]!r}: {name[:60]!r}, which no description holds")


def fill(template: Any, results: dict[str, Any]) -> Any:
    """A decoded value with results in the place of :class:`StepOutput`."""
    kind = type(template)  # compared by identity: this runs for every argument of every step
    if kind is StepOutput:
        return results[template.name]
    if kind is list:
        return [fill(part, results) for part in template]
    if kind is tuple:
        return tuple([fill(part, results) for part in template])
    if kind is dict:
        return {key: fill(part, results) for key, part in template.items()}
    if kind is slice:
        parts = (template.start, template.stop, template.step)
        return slice(*[fill(part, results) for part in parts])
    return template


def needed(template: Any) -> set[str]:
    """The results that :func:`fill` looks up for a decoded value."""
    if isinstance(template, StepOutput):
        return {template.name}
    if isinstance(template, slice):
        template = [template.start, template.stop, template.step]
    if isinstance(template, dict):
        template = list(template.values())
    if isinstance(template, list | tuple):
        return set().union(*(needed(part) for part in template))
    return set()


Kind = TypeVar("Kind", dict[str, Any], list[Any])


def checked(kind: type[Kind], found: object, where: str) -> Kind:
    """``found``, a list or object of at most :data:`MAX_PARTS`.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(found, kind) and len(found) <= MAX_PARTS:
        return found
    size = f" of {len(found)}" if isinstance(found, list | dict) else ""
    name = "a list" if kind is list else "an object"
    raise ConfigError(
        f"{where}: found {type(found).__name__}{size}, accepted {name} of {MAX_PARTS} or less"
    )
