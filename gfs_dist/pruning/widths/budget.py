"""How small a network is to become: read from what users give, checked before work starts."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfs_dist.errors import BudgetError, ConfigError
from gfs_dist.pruning.widths.widths import allowed_widths, least_widths

if TYPE_CHECKING:  # budgets are read before torch is needed
    from gfs_dist.pruning.widths.costs import Costs

UNITS = {"macs": "multiply-adds", "params": "parameters"}
"""Kinds that are counted, and what is."""

SHARES = ("macs", "params", "latency", "keep", "tolerance")
KINDS = (*SHARES, "widths")
SHARE_WORDS = "a share above 0 and at most 1, as 0.5 or 50%"


@dataclass(frozen=True)
class Budget:
    """One limit.

    Attributes:
        kind: ``macs``, ``params``, ``latency``: share kept of the whole dense network's;
            ``keep``: share of each layer's channels; ``tolerance``: relative drop of top-1;
            ``widths``: the widths themselves.
        share: exactly as typed; 1 for ``widths``.
        widths: channels to keep by layer; empty but for ``widths``.
        round_to: widths are multiples of this.
        batch: inputs at once where latency is measured.
        trials: networks that may be cut and measured to find widths (``macs``, ``params``); None
            for as many as the caller thinks fit.
    """

    kind: str
    share: Fraction = Fraction(1)
    widths: Mapping[str, int] = field(default_factory=dict)
    round_to: int = 1
    batch: int = 1
    trials: int | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Budget:
        """The budget of ``{"macs": 0.5}``, ``{"keep": "50%", "round_to": 8}`` and the like.

        Args:
            given: exactly one of :data:`KINDS`; ``round_to``, ``batch`` with ``latency``, and
                ``trials`` with ``macs`` and ``params`` may stand beside it. None counts as not
                given. ``widths`` is a mapping of layers to widths, or the name of a JSON file of
                one.

        Raises:
            ConfigError: names ``budget.KEY``, found and accepted.
        """
        if not isinstance(given, Mapping):
            raise ConfigError(f"budget: found {given!r}, accepted a dict such as {{'macs': 0.5}}")
        found = {key: value for key, value in given.items() if value is not None}
        known = (*KINDS, "round_to", "batch", "trials")
        for key in found:
            if key not in known:
                raise ConfigError(
                    f"budget.{key}: unknown, accepted {', '.join(known)}{_nearest(key, known)}"
                )
        kinds = [kind for kind in KINDS if kind in found]
        if len(kinds) != 1:
            names = " and ".join(f"budget.{kind}" for kind in kinds) or "none"
            raise ConfigError(f"budget: found {names}, accepted one of {', '.join(KINDS)}")
        (kind,) = kinds
        if "batch" in found and kind != "latency":
            raise ConfigError(f"budget.batch: found with budget.{kind}, accepted with latency only")
        if "trials" in found and kind not in UNITS:
            raise ConfigError(
                f"budget.trials: found with budget.{kind}, accepted with macs and params only"
            )
        trials = _count("trials", found["trials"]) if "trials" in found else None
        round_to, batch = (_count(key, found.get(key, 1)) for key in ("round_to", "batch"))
        if kind == "widths":
            return cls(kind, Fraction(1), _read_widths(found[kind]), round_to)
        return cls(kind, parse_share(f"budget.{kind}", found[kind]), {}, round_to, batch, trials)

    def check(self, costs: Costs) -> None:
        """Refuse what does not fit a network, or cannot be met by any of its widths.

        (Whether a latency can be met is known once it is measured.)

        Raises:
            ConfigError: a layer that does not exist, or a width that it cannot have.
            BudgetError: even the smallest network costs more; says what the least is.
        """
        if self.kind == "widths":
            _check_widths(self.widths, costs.channels, self.round_to)
        if self.kind not in UNITS:
            return
        least = costs.of(self.kind, least_widths(costs.channels, self.round_to))
        if least > self.limit(costs):
            each = "1 channel" if self.round_to == 1 else f"{self.round_to} channels (or all)"
            raise BudgetError(
                f"budget.{self.kind}: found {percent(self.share)} "
                f"({self.limit(costs):,} {UNITS[self.kind]}), but with {each} in every layer it is "
                f"still {percent(_above(least, costs.dense(self.kind)))} ({least:,}): "
                "nothing less can be had"
            )

    def limit(self, costs: Costs) -> int:
        """The largest allowed cost, for ``macs`` and ``params``."""
        return math.floor(self.share * costs.dense(self.kind))


def parse_share(key: str, value: Any) -> Fraction:
    """``0.5``, ``"0.5"`` or ``"50%"``, exactly as typed.

    Raises:
        ConfigError: no number, or outside (0, 1]; names ``key``.
    """
    number, sign, rest = str(value).strip().partition("%")
    try:
        share = Fraction(number.strip()) / (100 if sign else 1)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if rest or not 0 < share <= 1:
        raise ConfigError(f"{key}: found {value}, accepted {SHARE_WORDS}")
    return share


def percent(share: Fraction) -> str:
    """``50%``, ``35.7%``: as it can be typed again."""
    return f"{float(100 * share):.6g}%"


def _above(part: int, whole: int) -> Fraction:
    """Their ratio, rounded up to a hundredth of a percent, so that it can be had."""
    return Fraction(-(-10_000 * part // whole), 10_000)


def _count(key: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"budget.{key}: found {value!r}, accepted a whole number, 1 or more")
    return int(value)


def _read_widths(given: Any) -> Mapping[str, int]:
    accepted = "layers and widths, or a JSON file of them"
    if isinstance(given, str | PathLike):
        try:
            if not Path(given).is_file():  # a pipe or device would never end
                raise FileNotFoundError
            found = json.loads(Path(given).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"budget.widths: found {given}, accepted {accepted}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"budget.widths: {given} is not JSON ({error})") from error
    else:
        found = given
    if not isinstance(found, Mapping) or not found:
        raise ConfigError(f"budget.widths: found {found!r}, accepted {accepted}")
    return {str(name): _count(f"widths: {name}", width) for name, width in found.items()}


def _check_widths(widths: Mapping[str, int], channels: Mapping[str, int], round_to: int) -> None:
    for name, width in widths.items():
        if name not in channels:
            known = _nearest(name, channels) or f"; accepted {', '.join(channels)}"
            raise ConfigError(f"budget.widths: no layer {name!r} that can be pruned{known}")
        allowed = allowed_widths(channels[name], round_to)
        if width not in allowed:
            kind = "a whole number" if round_to == 1 else f"a multiple of {round_to}"
            raise ConfigError(
                f"budget.widths: {name}: found {width}, accepted {kind} from {allowed[0]} to "
                f"{allowed[-1]}" + f", or {allowed[-1]}" * (allowed[-1] % round_to > 0)
            )


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
