"""Slow, plain references in numpy, written from the paper's equations and from nothing of ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar

TIE = 1e-12


def squared(output: np.ndarray, target: np.ndarray) -> float:
    """``sum (u - y)^2 / (2 m)``; outputs are summed, samples averaged."""
    return float(((output - target) ** 2).sum() / (2 * len(target)))


def bce(logit: np.ndarray, target: np.ndarray) -> float:
    """Mean binary cross-entropy of logits."""
    return float(np.mean(np.logaddexp(0.0, logit) - target * logit))


def cross_entropy(logits: np.ndarray, classes: np.ndarray) -> float:
    """Mean softmax cross-entropy of logits (samples, classes)."""
    top = logits.max(1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return float(np.mean(log_sum - logits[np.arange(len(logits)), classes]))


LOSSES = {"squared": squared, "bce": bce, "cross_entropy": cross_entropy}


def greedy(
    contributions: np.ndarray,
    target: np.ndarray,
    steps: int,
    loss: str = "squared",
    weights: str = "uniform",
    replacement: bool = True,
) -> tuple[list[int], list[float], list[float]]:
    """Algorithm 1 by definition: every candidate's loss from scratch, ties to the lowest index.

    Returns picks, loss after each, and the loss difference to the best candidate outside the tie.
    """
    measure = LOSSES[loss]
    n = contributions.shape[1]
    empty = np.zeros_like(contributions[:, 0])
    scale = measure(empty, target)
    output, picks, losses, gaps = empty, [], [], []
    for k in range(1, steps + 1):
        scores, reached = np.full(n, np.inf), {}
        for i in range(n):
            if not replacement and i in picks:
                continue
            step = 1.0 / k if weights == "uniform" or k == 1 else None
            reached[i] = _move(output, contributions[:, i], step, lambda u: measure(u, target))
            scores[i] = measure(reached[i], target)
        best = scores.min()
        if not np.isfinite(best):
            break
        tied = scores <= best + TIE * max(abs(best), scale)
        pick = int(np.argmax(tied))
        output = reached[pick]
        picks.append(pick)
        losses.append(float(best))
        gaps.append(float(scores[~tied].min() - best) if (~tied).any() else np.inf)
    return picks, losses, gaps


def _move(
    output: np.ndarray,
    contribution: np.ndarray,
    step: float | None,
    measure: Callable[[np.ndarray], float],
) -> np.ndarray:
    direction = contribution - output
    if step is None:
        found = minimize_scalar(
            lambda g: measure(output + g * direction),
            bounds=(0.0, 1.0),
            method="bounded",
            options={"xatol": 1e-12},
        )
        ends = {0.0: measure(output), 1.0: measure(output + direction), found.x: found.fun}
        step = min(ends, key=ends.__getitem__)
    return output + step * direction


def least_loss(curves: list[np.ndarray], prices: list[int], money: int) -> float:
    """The least sum of one loss a curve, by dynamic programming over what may be spent.

    Entry ``w - 1`` of curve ``l`` costs ``w * prices[l]``; every curve gives one entry.
    """
    best = np.zeros(money + 1)
    for curve, price in zip(curves, prices, strict=True):
        following = np.full(money + 1, np.inf)
        for width, loss in enumerate(curve[: money // price], start=1):
            spent = width * price
            following[spent:] = np.minimum(following[spent:], best[: money + 1 - spent] + loss)
        best = following
    return float(best[money])
