"""Numbers as a reader wants them. None, a value that does not exist, becomes a dash."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "anything", "clock", "count", "listed", "loss", "memory", "part", "percent", "seconds",
    "several", "short_hash",
]  # fmt: skip

NOTHING = "-"
HASH_DIGITS = 12


def count(value: float | None) -> str:
    """A whole number with thousands marked: 40,551,040."""
    return NOTHING if value is None else f"{int(value):,}"


def loss(value: float | None) -> str:
    """A loss with six significant digits."""
    return NOTHING if value is None else f"{value:.6g}"


def percent(share: float | None, digits: int = 2) -> str:
    """A share as percentage: 0.9296 is 92.96 %."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def part(value: float | None, whole: float | None) -> str:
    """A count and its share of the whole: 20,275,520 (50.0 %)."""
    if value is None or not whole:
        return count(value)
    return f"{count(value)} ({percent(value / whole, 1)})"


def short_hash(digest: str | None) -> str:
    """The first digits of a hash, as code."""
    return f"`{digest[:HASH_DIGITS]}`" if digest else NOTHING


def seconds(value: float | None) -> str:
    """A time in seconds, milliseconds or microseconds, whatever needs no leading zeros."""
    if value is None:
        return NOTHING
    if value == 0 or value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} us"


def clock(time: float | None) -> str:
    """Seconds since 1970 as date and time (UTC)."""
    return NOTHING if time is None else f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S}"


def memory(value: float | None) -> str:
    """Bytes as GiB, MiB or KiB."""
    if value is None:
        return NOTHING
    for size, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value / 2**10:.1f} KiB"


def several(number: int, noun: str) -> str:
    """``1 checkpoint``, ``3 checkpoints``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def anything(value: Any) -> str:
    """A value of unknown meaning: booleans as yes or no, floats with six significant digits.

    A dict of repeated measurements (``median minimum maximum``, or ``median min max``) is shown as
    its median and range.
    """
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        for low, high in (("minimum", "maximum"), ("min", "max")):
            if {"median", low, high} <= value.keys():
                return f"{value['median']:.4g} ({value[low]:.4g} to {value[high]:.4g})"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
