"""Least squares in relative terms: every measured time counts alike, however long it is."""

from __future__ import annotations

import torch
from torch import Tensor


def fit_non_negative(terms: Tensor, values: Tensor) -> tuple[tuple[float, ...], float]:
    """Factors, none below 0, that make ``terms @ factors`` nearest to ``values``.

        min_f sum_i ((terms_i f - v_i) / v_i)^2

    A term whose factor would be negative is left out, the most negative first.

    Args:
        terms: float64 (points, terms).
        values: float64 (points,), above 0.

    Returns:
        the factors, and the standard deviation of value over fit (0 if there are no more points
        than terms).
    """
    rows, ones = terms / values[:, None], torch.ones_like(values)
    # Terms of very different size, such as 1 and a count of bytes, are solved for in units of
    # their own; a term that is 0 everywhere has no factor.
    sizes = rows.norm(dim=0)
    used = sizes > 0
    factors = torch.zeros(terms.shape[1], dtype=torch.float64)
    while used.any():
        scaled = rows[:, used] / sizes[used]
        found = torch.linalg.lstsq(scaled, ones[:, None], driver="gelsd").solution[:, 0]
        if found.min() >= 0:
            factors[used] = found / sizes[used]
            break
        used[used.nonzero().flatten()[found.argmin()]] = False
    freedom = len(values) - int(used.sum())
    residuals = rows @ factors - 1
    error = float(residuals.square().sum() / freedom) ** 0.5 if freedom > 0 else 0.0
    return tuple(factors.tolist()), error
