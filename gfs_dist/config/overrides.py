"""The words of a command line that set keys, ``key=value``: read, refused, multiplied.

Hydra reads them; what it would accept although no key of the schema is meant is refused here.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Transformer
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gfs_dist.command_words import quoted
from gfs_dist.errors import ConfigError


def parse(words: Sequence[str]) -> list[Override]:
    """Read ``key=value`` words.

    Raises:
        ConfigError: a word is no assignment, has several values, or takes a key away; says what is
            accepted.
    """
    return [_parse(word) for word in words]


def points(words: Sequence[str]) -> list[list[str]]:
    """The words of each run of a sweep: every combination of the values that have several.

    Raises:
        ConfigError: a word that :func:`parse` refuses, or a sweep that is not a plain list.
    """
    return [list(point) for point in itertools.product(*map(_values, words))]


def swept(words: Sequence[str]) -> list[dict[str, Any]]:
    """Of each run of a sweep, its values of the keys that have several."""
    several = {
        override.key_or_group
        for override in (_parse(word, sweep=True) for word in words)
        if override.is_sweep_override()
    }
    return [
        {o.key_or_group: o.value() for o in parse(point) if o.key_or_group in several}
        for point in points(words)
    ]


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the known name most like ``name``, else nothing.

    The beginning of a name counts as the name: resnt20 is nearer to resnet20_cifar than to
    resnet50. Keys are also known by their last part alone.
    """
    known = list(known)
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    for names in (dict(zip(known, known, strict=True)), last):
        starts = {
            "_".join(key.split("_")[:end]).lower(): whole
            for key, whole in reversed(names.items())
            for end in range(1, key.count("_") + 1)
        }
        alike = starts | {key.lower(): whole for key, whole in names.items()}
        part = name if names is not last else name.rpartition(".")[2]
        if close := difflib.get_close_matches(part.lower(), alike, n=1):
            return f"; did you mean {alike[close[0]]}?"
    return ""


def raw_value(override: Override) -> str:
    """What stands after the first ``=``, as it was typed."""
    return (override.input_line or "").partition("=")[2]


def text(override: Override) -> str | None:
    """The value of a key that takes text: 001 is text there; None for null.

    Interpolations are written out, but for those of keys that are not known yet.
    """
    value = override.value()
    found = value if isinstance(value, str | None) else raw_value(override)
    if found is not None and "${" in found:
        with contextlib.suppress(OmegaConfBaseException):
            return str(OmegaConf.create({"value": found}).value)
    return found


def _parse(word: str, *, sweep: bool = False) -> Override:
    key, equals, value = word.partition("=")
    if key.startswith("~"):
        raise ConfigError(f"{word}: a key cannot be removed, accepted key=value")
    if not equals or not key.strip("+"):
        raise ConfigError(f"{word!r}: accepted key=value")
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException as error:
        raise ConfigError(
            f"{word}: the value cannot be read; accepted a plain value, or one in double quotes "
            f"inside single ones, {shlex.quote(f'{key}={quoted(value)}')}"
        ) from error
    if override.package is not None:
        raise ConfigError(f"{word}: '@' is not accepted in a key, accepted key=value")
    if override.is_sweep_override() and not sweep:
        raise ConfigError(f"{key}: found several values ({value}), accepted one without --multirun")
    return override


def _values(word: str) -> list[str]:
    override = _parse(word, sweep=True)
    if not override.is_sweep_override():
        return [word]
    if not isinstance(override.value(), ChoiceSweep):
        raise ConfigError(f"{word}: accepted the values one by one, as in key=1,2,3")
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_iterator(Transformer.encode)]
