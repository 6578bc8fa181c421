"""Checks of the numbers and arrays that users give to the functions of this folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gfs_dist.errors import InputError, NonFiniteError, ShapeError

Tile = Callable[[Tensor], Tensor]
"""Gives the contributions of the neurons in an int64 tensor as (len(neurons), samples, ...)."""


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


def finite_target(target: Tensor | NDArray[Any]) -> Tensor:
    """``target`` in float64: (samples,) or (samples, outputs), not empty, all numbers finite."""
    goal = torch.as_tensor(target).detach().to(torch.float64)
    if goal.dim() not in (1, 2) or goal.numel() == 0:
        raise ShapeError(
            f"target: found shape {tuple(goal.shape)}, accepted (samples,) or "
            "(samples, outputs), not empty"
        )
    wrong = ~torch.isfinite(goal)
    if bool(wrong.any()):
        sample = int(wrong.nonzero()[0, 0])
        raise NonFiniteError(f"target: found NaN or infinity at sample {sample}")
    return goal


def refuse_not_finite(rows: Tensor, neurons: Tensor, num_samples: int) -> None:
    """Refuse NaN and infinity in the contributions of ``neurons``, one a row."""
    wrong = ~torch.isfinite(rows)
    if bool(wrong.any()):
        row, number = wrong.nonzero()[0].tolist()
        raise NonFiniteError(
            f"contributions: found NaN or infinity at neuron {int(neurons[row])}, "
            f"sample {number * num_samples // rows.shape[1]}"
        )


def as_tiles(
    contributions: Tensor | NDArray[Any] | Tile, target: Tensor, num_neurons: int | None
) -> tuple[Tile, int]:
    """One way to ask for contributions: float64 (len(neurons), samples * outputs)."""
    if callable(contributions):
        if num_neurons is None or num_neurons < 1:
            raise ShapeError(
                f"num_neurons: found {num_neurons}, accepted a number from 1 "
                "(needed because contributions is a function)"
            )
        make = contributions
        return lambda neurons: _fitted(make(neurons), neurons, target), num_neurons

    held = torch.as_tensor(contributions)
    expected = (target.shape[0], *target.shape[1:])
    if held.dim() != target.dim() + 1 or (held.shape[0], *held.shape[2:]) != expected:
        raise ShapeError(
            f"contributions: found shape {tuple(held.shape)}, accepted (samples, neurons, ...) "
            f"to fit a target of shape {tuple(target.shape)}"
        )
    if held.shape[1] == 0:
        raise ShapeError("contributions: found 0 neurons, accepted at least 1")
    return lambda neurons: _fitted(held[:, neurons].transpose(0, 1), neurons, target), held.shape[1]


def _fitted(rows: Tensor, neurons: Tensor, target: Tensor) -> Tensor:
    """A tile in float64, one neuron a row; refused if the function gave another shape."""
    expected = (len(neurons), *target.shape)
    if rows.shape != expected:
        raise ShapeError(f"contributions: the function gave {tuple(rows.shape)}, not {expected}")
    return rows.detach().to(torch.float64).reshape(len(neurons), -1)
