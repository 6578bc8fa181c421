"""Checks of the numbers that users give to the functions of this folder."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gfs_dist.errors import InputError


def at_least(name: str, value: float, least: float, *, above: bool = False) -> float:
    """``value`` as a finite float that is at least ``least`` (``above``: larger than it)."""
    number = float(value)
    if not math.isfinite(number) or number < least or (above and number == least):
        raise InputError(
            f"{name}: found {value}, accepted a finite number "
            f"{'above' if above else 'of at least'} {least:g}"
        )
    return number


def whole_numbers(name: str, values: ArrayLike, least: int) -> NDArray[np.float64]:
    """``values`` as float64 of the same shape, all of them whole and at least ``least``."""
    numbers = np.asarray(values, dtype=np.float64)
    wrong = ~np.isfinite(numbers) | (numbers != np.floor(numbers)) | (numbers < least)
    if wrong.any():
        raise InputError(
            f"{name}: found {numbers[wrong].flat[0]:g}, accepted whole numbers from {least}"
        )
    return numbers
