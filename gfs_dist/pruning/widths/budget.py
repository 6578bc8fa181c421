"""Budgets: how small a network is to become, and which widths a layer may have.

Read from what users give; knows no torch, since configurations are checked before torch is needed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Integral
from os import PathLike
from typing import Any

from gfs_dist.errors import ConfigError
from gfs_dist.files.untrusted import load_json

LIMITS = ("macs", "params", "latency", "memory")
KINDS = (*LIMITS, "keep", "tolerance", "widths")
UNITS = {"macs": "multiply-adds", "params": "parameters"}
"""Limits on a cost that follows from the widths alone, and what it counts."""
COUNTS = ("round_to", "batch", "trials")
PARTNERS = {"batch": ("latency", "memory"), "trials": tuple(UNITS), "uniform": (*LIMITS, "keep")}
"""Keys that stand beside some kinds only."""


@dataclass(frozen=True)
class Budget:
    """One limit or several, or a rule of its own.

    Attributes:
        shares: exactly as typed, by kind: ``macs``, ``params``, ``latency``, ``memory``, which
            may stand together: shares kept of the whole dense network's; or, alone, ``keep``: share
            of each layer's channels, ``tolerance``: relative drop of top-1. Empty with ``widths``.
        widths: channels to keep by layer, where they are given.
        round_to: widths are multiples of this.
        batch: inputs at once where latency and memory are measured.
        trials: networks that may be cut and measured to find widths (``macs``, ``params``); None
            for as many as the caller thinks fit.
        uniform: the same width in all layers of one kind and as many candidates.
    """

    shares: Mapping[str, Fraction] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    round_to: int = 1
    batch: int = 1
    trials: int | None = None
    uniform: bool = False

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Budget:
        """The budget of ``{"macs": 0.5}``, ``{"macs": 0.5, "params": "60%", "round_to": 8}``.

        Args:
            given: some of :data:`LIMITS`, or one other of :data:`KINDS`; beside them ``round_to``
                and, with some kinds (:data:`PARTNERS`), ``batch``, ``trials`` and ``uniform``.
                None counts as not given. ``widths`` is a mapping of layers to widths, or the name
                of a JSON file of one.

        Raises:
            ConfigError: names ``budget.KEY``, found and accepted.
        """
        if not isinstance(given, Mapping):
            raise ConfigError(f"budget: found {given!r}, accepted a dict such as {{'macs': 0.5}}")
        found = {key: value for key, value in given.items() if value is not None}
        if found.get("uniform") is False:
            del found["uniform"]
        known = (*KINDS, *COUNTS, "uniform")
        for key in found:
            if key not in known:
                raise ConfigError(
                    f"budget.{key}: unknown, accepted {', '.join(known)}{nearest(key, known)}"
                )
        kinds = [kind for kind in KINDS if kind in found]
        names = " and ".join(f"budget.{kind}" for kind in kinds)
        if not kinds or (len(kinds) > 1 and not set(kinds) <= set(LIMITS)):
            raise ConfigError(
                f"budget: found {names or 'none'}, accepted one or more of {', '.join(LIMITS)}, or "
                f"one of {', '.join(KINDS[len(LIMITS) :])}"
            )
        for key, partners in PARTNERS.items():
            if key in found and not set(kinds) & set(partners):
                raise ConfigError(
                    f"budget.{key}: found with {names}, accepted with {' and '.join(partners)} only"
                )
        options: dict[str, Any] = {key: _count(key, found[key]) for key in COUNTS if key in found}
        if "uniform" in found:
            if not isinstance(found["uniform"], bool):
                raise ConfigError(
                    f"budget.uniform: found {found['uniform']!r}, accepted True or False"
                )
            options["uniform"] = found["uniform"]
        if "widths" in found:
            return cls(widths=_read_widths(found["widths"]), **options)
        return cls({kind: _parse_share(f"budget.{kind}", found[kind]) for kind in kinds}, **options)

    @property
    def kind(self) -> str:
        """``limits``, ``keep``, ``tolerance`` or ``widths``."""
        kind = next(iter(self.shares), "widths")
        return "limits" if kind in LIMITS else kind


def percent(share: Fraction) -> str:
    """``50%``, ``35.7%``: as it can be typed again."""
    return f"{float(100 * share):.6g}%"


def allowed_widths(channels: int, round_to: int = 1, most: int | None = None) -> list[int]:
    """The widths to choose from: multiples of ``round_to``, and the whole layer; ascending.

    Args:
        channels: of the whole layer.
        round_to: widths are multiples of this; a layer with fewer channels stays whole.
        most: the largest width that a path reaches (with replacement it may end early). A layer
            whose path ends before the first multiple gets this width.
    """
    most = channels if most is None else most
    assert 1 <= most <= channels
    assert round_to >= 1
    widths = list(range(round_to, most + 1, round_to))
    if (most == channels and most % round_to) or not widths:
        widths.append(most)
    return widths


def uniform_widths(
    channels: Mapping[str, int], share: Fraction, round_to: int = 1
) -> dict[str, int]:
    """The same share of every layer: the largest allowed width of at most ``share * channels``.

    A layer whose smallest allowed width is above its share gets that one.
    """
    widths = {}
    for name, count in channels.items():
        least, *larger = allowed_widths(count, round_to)
        widths[name] = max([least, *(width for width in larger if width <= share * count)])
    return widths


def _parse_share(key: str, value: Any) -> Fraction:
    """``0.5``, ``"0.5"`` or ``"50%"``, exactly as typed."""
    number, sign, rest = str(value).strip().partition("%")
    try:
        share = Fraction(number.strip()) / (100 if sign else 1)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if rest or not 0 < share <= 1:
        raise ConfigError(
            f"{key}: found {value}, accepted a share above 0 and at most 1, as 0.5 or 50%"
        )
    return share


def _count(key: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"budget.{key}: found {value!r}, accepted a whole number, 1 or more")
    return int(value)


def _read_widths(given: Any) -> Mapping[str, int]:
    accepted = "layers and widths, or a JSON file of them"
    found = given
    if isinstance(given, str | PathLike):
        try:
            found = load_json(given)
        except OSError as error:
            raise ConfigError(f"budget.widths: found {given}, accepted {accepted}") from error
        except ValueError as error:
            raise ConfigError(f"budget.widths: {given} is not JSON ({error})") from error
    if not isinstance(found, Mapping) or not found:
        raise ConfigError(f"budget.widths: found {found!r}, accepted {accepted}")
    return {str(name): _count(f"widths: {name}", width) for name, width in found.items()}


def nearest(name: str, known: Iterable[str]) -> str:
    """A question after the known name that comes nearest, for the end of an error."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
