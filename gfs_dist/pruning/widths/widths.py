"""Which widths a layer may have."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction


def allowed_widths(channels: int, round_to: int = 1, most: int | None = None) -> list[int]:
    """The widths to choose from: multiples of ``round_to``, and the whole layer; ascending.

    Args:
        channels: of the whole layer.
        round_to: what widths are multiples of; a layer with fewer channels stays whole.
        most: the largest width that can be had (a path with replacement ends early). A layer
            whose path does not reach a multiple has this width.
    """
    most = channels if most is None else most
    assert 1 <= most <= channels
    assert round_to >= 1
    widths = list(range(round_to, most + 1, round_to))
    if (most == channels and most % round_to) or not widths:
        widths.append(most)
    return widths


def least_widths(channels: Mapping[str, int], round_to: int = 1) -> dict[str, int]:
    """The smallest allowed width of every layer."""
    return {name: allowed_widths(count, round_to)[0] for name, count in channels.items()}


def uniform(channels: Mapping[str, int], share: Fraction, round_to: int = 1) -> dict[str, int]:
    """The same share of every layer: the largest allowed width of at most ``share * channels``.

    A layer whose smallest allowed width is above its share gets that one.
    """
    widths = {}
    for name, count in channels.items():
        least, *larger = allowed_widths(count, round_to)
        widths[name] = max([least, *(width for width in larger if width <= share * count)])
    return widths
