"""Theorems 2 and 3 against descents: how many iterations until more picks help."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gfs_dist.experiments.fits import group, mean_and_deviation, spread
from gfs_dist.experiments.grid import Findings, Row
from gfs_dist.theory import Spectrum, pretraining_bound, pretraining_threshold

RULES = ("uniform", "line_search")
"""Selection rules; the first is the paper's."""

FEW, MANY = 200, 1000
"""Picks between which more of them help, or not."""

MIDDLE = round(math.sqrt(FEW * MANY))
"""For which Theorem 3 is asked: its terms in the picks and in the iterations are equal there."""

STEEP = -1.0
"""Slope of log loss over log picks from which on more picks help; Lemma 1 has it for L_N = 0."""

GOOD = 0.01
"""A loss by which selection rules are compared; it begins at about 0.5."""

SHOWN = (0, 1, 4, 16, 64, 256, 1024)
"""Iterations at which they are."""

NOTHING = 1e-12
"""A loss that no more picks need to lower; the target is in the hull if its least loss is less."""


def place_of(row: Row) -> Row:
    """Dataset, samples and width of a cell."""
    return {"data": row["data"], "samples": row["samples"], "width": row["width"]}


def by_network(descents: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    """Trials of each dataset, number of samples and width."""
    grouped = group(descents, lambda row: (row["data"], row["samples"], row["width"]))
    return [
        ({"data": name, "m": m, "N": n}, list(map(dict, trials)))
        for (name, m, n), trials in sorted(grouped.items())
    ]


def shown_checkpoints(trials: Sequence[Row]) -> list[int]:
    """The checkpoints of a network that tables show: the first, one in the middle, the last."""
    number = min(len(trial["checkpoints"]) for trial in trials)
    return sorted({0, number // 2, number - 1})


def theory_arguments(descent: Row) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of Theorems 2 and 3 for a descent: as the paper prints them, and with constants.

    Returns:
        initial loss, condition number and share of the theory's step, with all constants 1; and
        with c from the tangent kernel and ``C = D^2/2`` at initialisation.
    """
    samples, width = descent["samples"], descent["width"]
    spectrum = Spectrum(descent["alpha"], descent["beta"], samples, width)
    first = descent["checkpoints"][0]
    printed = {
        "initial_loss": first["dense_loss"],
        "condition_number": spectrum.condition_number,
        "step_share": spectrum.step_share(descent["lr"]),
    }
    constants = {
        "rate_constant": descent["rate_constant"],
        "sparsity_constant": first["diameter_squared"] / 2,
    }
    return printed, {**printed, **constants}


def theorem2(found: Findings, descents: Sequence[Row], picks: Sequence[int]) -> None:
    """Add the bound over picks and iterations, and whether it holds."""
    table, shares, dense_shares = [], [], []
    shown = [k for k in picks if k >= 30 and k != 100]
    for network, trials in by_network(descents):
        for i in shown_checkpoints(trials):
            iteration = trials[0]["checkpoints"][i]["iteration"]
            line: dict[str, Any] = {**network, "iterations": iteration}
            for k in shown:
                losses = [t["checkpoints"][i]["uniform"]["loss"][picks.index(k)] for t in trials]
                bounds = [
                    float(pretraining_bound(k, iteration, **theory_arguments(t)[1])) for t in trials
                ]
                line[f"k = {k:,}: loss"] = spread(losses, ".1e")
                line[f"k = {k:,}: bound"] = spread(bounds, ".1e")
            table.append(line)
    for descent in descents:
        arguments = theory_arguments(descent)[1]
        for point in descent["checkpoints"]:
            t = point["iteration"]
            bound = pretraining_bound(np.array(picks), t, **arguments)
            shares.append(float((np.array(point["uniform"]["loss"]) / bound).max()))
            trained = float(pretraining_bound(1, t, **arguments))
            dense_shares.append(point["dense_loss"] / trained)
    found.tables["Theorem 2: bound over picks and iterations, and the loss"] = table
    broken = sum(share > 1 for share in shares)
    found.claim(
        "Theorem 2: the loss of k picks after t iterations is below the sum of a term in k and "
        "one in t",
        "holds" if not broken else "holds in part" if broken < len(shares) else "contradicted",
        f"with constants from K and D it is exceeded at {broken} of {len(shares)} checkpoints; "
        f"its second term, the dense loss, is exceeded at {sum(s > 1 for s in dense_shares)} "
        f"(largest loss / bound {max(dense_shares):.2g})",
    )


def slope(point: Row, rule: str, picks: Sequence[int]) -> float:
    """Of log loss over log picks, between few and many; minus infinity where few leave nothing."""
    few, many = (point[rule]["loss"][picks.index(k)] for k in (FEW, MANY))
    if few <= NOTHING:
        return -math.inf
    return math.log(max(many, NOTHING) / few) / math.log(MANY / FEW)


def _helps(rule: str, picks: Sequence[int], point: Row) -> bool:
    return slope(point, rule, picks) <= STEEP


def first_iteration(descent: Row, reached: Callable[[Row], bool]) -> tuple[int | None, int | None]:
    """The last checkpoint before ``reached`` becomes true, and the first at which it is."""
    before = None
    for point in descent["checkpoints"]:
        if reached(point):
            return before, point["iteration"]
        before = point["iteration"]
    return before, None


def _interval(ends: Sequence[tuple[int | None, int | None]]) -> str:
    lows, highs = [low or 0 for low, _ in ends], [high for _, high in ends if high is not None]
    if len(highs) < len(ends):
        return f"above {min(lows):,}"
    return f"{min(lows):,} to {max(highs):,}"


def theorem3(found: Findings, descents: Sequence[Row], picks: Sequence[int]) -> None:
    """Add the iterations from which more picks help, measured and predicted."""
    table, factors, printed_factors = [], [], []
    needed: dict[str, list[float]] = {rule: [] for rule in RULES}
    at_once = 0
    for network, trials in by_network(descents):
        own, printed = [], []
        ends: dict[str, list[tuple[int | None, int | None]]] = {rule: [] for rule in RULES}
        inside = [first_iteration(t, lambda p: p["hull_loss"] <= NOTHING) for t in trials]
        for trial, enters in zip(trials, inside, strict=True):
            plain, constants = theory_arguments(trial)
            own.append(float(pretraining_threshold(MIDDLE, **constants)))
            printed.append(float(pretraining_threshold(MIDDLE, **plain)))
            for rule in RULES:
                ends[rule].append(first_iteration(trial, functools.partial(_helps, rule, picks)))
            low, high = ends["uniform"][-1]
            if high is not None:
                factors.append(_factor(own[-1], low or 0, high))
                printed_factors.append(_factor(printed[-1], low or 0, high))
                at_once += enters[1] == high
        if all(high is not None for rule in RULES for _, high in ends[rule]):
            for rule in RULES:
                needed[rule] += [float(high or 0) for _, high in ends[rule]]
        table.append(
            {
                **network,
                **{f"more picks help: {rule}": _interval(ends[rule]) for rule in RULES},
                "target enters the hull": _interval(inside),
                f"predicted for {MIDDLE} picks, constants from K and D": spread(own, ",.0f"),
                "predicted, all constants 1": spread(printed, ",.0f"),
            }
        )
    found.tables["Theorem 3: iterations from which more picks help"] = table
    _judge_theorem3(found, factors, printed_factors, at_once, len(descents))
    if needed[RULES[0]]:
        ratios = [u / o for u, o in zip(*(needed[rule] for rule in RULES), strict=True)]
        mean, deviation = mean_and_deviation(ratios)
        found.notes.append(
            "Does better selection need less pre-training? More picks begin to help after "
            f"{mean:.2f} ± {deviation or 0:.2f} times as many iterations under uniform weights as "
            f"by line search ({len(ratios)} descents). Weights fitted by least squares need none: "
            "as many neurons as samples reach any target."
        )


def selection_rules(found: Findings, descents: Sequence[Row]) -> None:
    """Add the neurons that every rule needs for a good loss, by iterations of pre-training."""
    table = []
    for network, trials in by_network(descents):
        for rule in (*RULES, "least_squares"):
            line: dict[str, Any] = {**network, "rule": rule}
            for points in zip(*(trial["checkpoints"] for trial in trials), strict=False):
                if (iteration := points[0]["iteration"]) in SHOWN:
                    needed = [point[rule]["neurons_to_good"] for point in points]
                    reached = [number for number in needed if number is not None]
                    whole = len(reached) == len(needed)
                    line[f"{iteration:,} iterations"] = spread(reached, ".0f") if whole else "never"
            table.append(line)
    found.tables[f"Selection rules: neurons for a loss of {GOOD:g}"] = table


def _factor(predicted: float, low: int, high: int) -> float:
    """How many times the prediction is above an interval (1: in it; below 1: under it)."""
    if predicted > high:
        return predicted / high
    return predicted / low if predicted < low else 1.0


def _judge_theorem3(
    found: Findings, factors: list[float], printed: list[float], at_once: int, number: int
) -> None:
    if not factors:
        found.claim("Theorem 3: more picks help from a number of iterations on", "undecided",
                    f"in none of {number} descents they did")  # fmt: skip
        return
    close = sum(0.5 <= factor <= 2 for factor in factors)
    found.claim(
        "Theorem 3: more picks help only from a number of iterations on, which the theory gives",
        "holds" if close == len(factors) == number else "holds in part",
        f"they begin to help in {len(factors)} of {number} descents; with constants from K and D "
        f"the prediction is within a factor of 2 in {close} (median {np.median(factors):.1f} times "
        f"the measured, {min(factors):.1f} to {max(factors):.1f}), with all constants 1 it is "
        f"{np.median(printed):,.0f} times ({min(printed):,.0f} to {max(printed):,.0f})",
    )
    found.claim(
        "it is the dense network's loss that keeps more picks from helping",
        "contradicted" if at_once > len(factors) / 2 else "holds in part",
        f"in {at_once} of {len(factors)} descents more picks help from the first checkpoint on "
        "whose hull holds the target, long before the dense loss is small",
    )


def slopes(descents: Sequence[Row], picks: Sequence[int]) -> list[Row]:
    """How steeply the paper's rule falls at every checkpoint, and Theorem 3's prediction."""
    return [
        {
            **place_of(descent), "trial": descent["trial"], "iteration": point["iteration"],
            "slope": None if steep == -math.inf else steep,
            "predicted": float(pretraining_threshold(MIDDLE, **theory_arguments(descent)[1])),
        }
        for descent in descents
        for point in descent["checkpoints"]
        for steep in [slope(point, RULES[0], picks)]
    ]  # fmt: skip
