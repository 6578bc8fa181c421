"""Slow, plain references in numpy, written from the paper's equations and from nothing of ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

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
    repeats: float = math.inf,
) -> tuple[list[int], list[float], list[float]]:
    """Algorithm 1 by definition: every candidate's loss from scratch, ties to the lowest index.

    After ``repeats`` picks a candidate that was picked is none any more.
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
            if (not replacement or k > repeats) and i in picks:
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


def least_squares(
    contributions: np.ndarray, target: np.ndarray, steps: int
) -> tuple[list[int], list[float], list[float], list[np.ndarray]]:
    """Orthogonal least squares by definition: every candidate fitted together with all picks.

    Contributions (samples, neurons[, outputs]); one weight a neuron. Returns picks, loss after
    each, the loss difference to the best other candidate, and the weights of the picks.
    """
    samples, n = contributions.shape[:2]
    columns = np.moveaxis(contributions, 1, -1).reshape(-1, n)

    def fitted(chosen: list[int]) -> tuple[float, np.ndarray]:
        weights = np.linalg.lstsq(columns[:, chosen], target.ravel(), rcond=None)[0]
        residual = columns[:, chosen] @ weights - target.ravel()
        return float(residual @ residual) / (2 * samples), weights

    picks: list[int] = []
    losses, gaps, found = [], [], []
    for _ in range(steps):
        left = [i for i in range(n) if i not in picks]
        trials = sorted((fitted([*picks, i])[0], i) for i in left)
        gaps.append(trials[1][0] - trials[0][0] if len(trials) > 1 else math.inf)
        picks.append(trials[0][1])
        loss, weights = fitted(picks)
        losses.append(loss)
        found.append(weights)
    return picks, losses, gaps, found


def exact_greedy(
    contributions: np.ndarray, target: np.ndarray, steps: int, weights: str = "uniform"
) -> tuple[list[int], list[float]]:
    """Algorithm 1 under squared loss in rational arithmetic: no rounding, and so no tolerance.

    Contributions (samples, neurons[, outputs]); returns picks and the loss after each.
    """
    samples, neurons = contributions.shape[:2]
    columns = [[Fraction(float(v)) for v in contributions[:, i].ravel()] for i in range(neurons)]
    y = [Fraction(float(v)) for v in target.ravel()]
    output = [Fraction(0)] * len(y)
    picks, losses = [], []
    for k in range(1, steps + 1):
        trials = [
            _exact_step(
                output, column, y, Fraction(1, k) if weights == "uniform" or k == 1 else None
            )
            for column in columns
        ]
        pick = min(range(neurons), key=lambda i: (trials[i][0], i))
        picks.append(pick)
        losses.append(float(trials[pick][0] / (2 * samples)))
        output = trials[pick][1]
    return picks, losses


def _exact_step(
    output: list[Fraction], column: list[Fraction], y: list[Fraction], step: Fraction | None
) -> tuple[Fraction, list[Fraction]]:
    """Squared distance to ``y`` after a step (None: the best one in [0, 1]), and where it leads."""
    direction = [c - u for c, u in zip(column, output, strict=True)]
    if step is None:
        curvature = sum(d * d for d in direction)
        slope = sum((u - t) * d for u, t, d in zip(output, y, direction, strict=True))
        step = min(max(-slope / curvature, Fraction(0)), Fraction(1)) if curvature else Fraction(0)
        step = Fraction(round(step * 2**32), 2**32)  # step sizes travel in 33 bits
    reached = [u + step * d for u, d in zip(output, direction, strict=True)]
    return sum((u - t) ** 2 for u, t in zip(reached, y, strict=True)), reached


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
