"""What the descents and spectra of ``experiment=theory`` show: tables, and the paper's claims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gfs_dist.experiments.fits import group, growth_fits, mean_and_deviation, slope_interval, spread
from gfs_dist.experiments.grid import Findings, Row
from gfs_dist.experiments.theory_thresholds import (
    FEW,
    RULES,
    by_network,
    place_of,
    selection_rules,
    shown_checkpoints,
    slopes,
    theorem2,
    theorem3,
)
from gfs_dist.theory import (
    lemma1_bound,
    lemma1_bound_by_diameter,
    sparsity_for_tolerance,
)

TOLERANCE = 0.05
"""Accepted loss above the dense loss, for Theorem 1; losses begin at about 0.5."""

CLOSE = 1 / 3
"""Relative difference up to which a predicted rate counts as right."""


def findings(descents: Sequence[Row], spectra: Sequence[Row], picks: Sequence[int]) -> Findings:
    """All tables and claims.

    Args:
        descents, spectra: rows of the two kinds of cells.
        picks: at which the losses of a path are kept.
    """
    rows = [
        {"name": f"{d['name']}_i{point['iteration']}", **place_of(d), "trial": d["trial"], **point}
        for d in descents
        for point in d["checkpoints"]
    ]
    found = Findings(rows)
    found.data |= {"paths": _paths(descents, picks), "slopes": slopes(descents, picks)}
    _lemma1(found, descents, picks)
    _theorem1(found, descents)
    _theorem7(found, descents)
    theorem2(found, descents, picks)
    theorem3(found, descents, picks)
    selection_rules(found, descents)
    _condition_numbers(found, spectra)
    found.notes += [
        "The paper leaves the constants of Theorems 1, 2, 3 and 7 open. Here: D measured and D^2/2 "
        "before log k / k; c from the smallest eigenvalue of the tangent kernel of both layers at "
        "initialisation; c' = 1; steps of 1 over its largest eigenvalue. Losses are means over "
        "samples.",
    ]
    return found


def _paths(descents: Sequence[Row], picks: Sequence[int]) -> list[Row]:
    """Losses of every path at ``picks``, and Lemma 1's bounds there."""
    return [
        {
            **place_of(descent), "trial": descent["trial"], "iteration": point["iteration"],
            "picks": k, **{rule: point[rule]["loss"][i] for rule in RULES}, **_bounds(point, k),
        }
        for descent in descents
        for point in descent["checkpoints"]
        for i, k in enumerate(picks)
    ]  # fmt: skip


def _bounds(point: Row, k: int) -> dict[str, float]:
    """Lemma 1 in all its forms at one checkpoint."""
    first, width, dense = (point[key] for key in ("first_loss", "diameter_squared", "dense_loss"))
    return {
        "bound with L_N": float(lemma1_bound(k, first, width, dense)),
        "bound with the hull": float(lemma1_bound(k, first, width, point["hull_loss"])),
        "bound by D alone": float(lemma1_bound_by_diameter(k, width, point["hull_loss"])),
    }


def _lemma1(found: Findings, descents: Sequence[Row], picks: Sequence[int]) -> None:
    at, table = picks.index(FEW), []
    for network, trials in by_network(descents):
        for i in shown_checkpoints(trials):
            points = [trial["checkpoints"][i] for trial in trials]
            columns: dict[str, list[float]] = {}
            for point in points:
                values = {
                    "L_N": point["dense_loss"],
                    "least loss of the hull": point["hull_loss"],
                    "its certificate": point["hull_gap"],
                    f"loss after {FEW}": point["uniform"]["loss"][at],
                    **_bounds(point, FEW),
                }
                for key, value in values.items():
                    columns.setdefault(key, []).append(value)
            cells = {key: spread(values, ".1e") for key, values in columns.items()}
            table.append({**network, "iterations": points[0]["iteration"], **cells})
    found.tables["Lemma 1: bounds of the loss, and the loss"] = table

    points = [point for row in descents for point in row["checkpoints"]]
    excess = [
        (point[rule]["loss"][at] - point["hull_loss"])
        / (_bounds(point, FEW)["bound with the hull"] - point["hull_loss"])
        for point in points
        for rule in RULES
    ]
    certificate = max(point["hull_gap"] for point in points)
    for limit, words in (
        ("L_N", "with the dense loss"),
        ("hull", "with the least loss of the hull in its place (stronger; ours)"),
    ):
        shares = [point[rule]["share_of_bound"][limit] for point in points for rule in RULES]
        broken = sum(share > 1 + 1e-9 for share in shares)
        found.claim(
            f"Lemma 1: the loss of k picks is below its bound, {words}",
            "contradicted" if broken else "holds",
            f"{broken} of {len(shares)} paths of up to {picks[-1]:,} picks exceed it; after {FEW} "
            f"picks the excess over the hull's least loss (known to {certificate:.0e}) is "
            f"{np.median(excess):.1e} of the bound's (median; {min(excess):.1e} to "
            f"{max(excess):.1e})",
        )


def _theorem1(found: Findings, descents: Sequence[Row]) -> None:
    table, ratios = [], []
    for network, trials in by_network(descents):
        promised, by_weights, needed = [], [], []
        for trial in trials:
            for i, point in enumerate(trial["checkpoints"]):
                width = point["diameter_squared"]
                excess = max(0.0, point["first_loss"] - point["dense_loss"])
                k = sparsity_for_tolerance(TOLERANCE, width, excess)
                used = point["uniform"]["picks_to_tolerance"]
                ratios.append(k / used)
                if i == 0:
                    bound = trial["output_bound"]
                    by_weights.append(sparsity_for_tolerance(TOLERANCE, bound, bound / 4))
                    promised.append(k)
                    needed.append(used)
        table.append(
            {
                **network,
                "promised, D measured": spread(promised, ",.0f"),
                "promised, D from the output weights": spread(by_weights, ",.0f"),
                "needed": spread(needed, ",.0f"),
            }
        )
    found.tables[f"Theorem 1: picks for a loss of L_N + {TOLERANCE:g}, at initialisation"] = table
    found.claim(
        "Theorem 1: O(1/e log 1/e) neurons come within e of the dense loss",
        "holds" if min(ratios) >= 1 else "contradicted",
        f"with C = D^2/2 it promises {np.median(ratios):,.0f} times as many picks as are needed "
        f"for e = {TOLERANCE:g} (median; {min(ratios):,.0f} to {max(ratios):,.0f})",
    )


def _theorem7(found: Findings, descents: Sequence[Row]) -> None:
    table, growths, shares = [], [], []
    for network, trials in by_network(descents):
        measured = [t for t in trials if t["measured_rate"] is not None]
        own = [t["measured_rate"] / t["rate"] for t in measured]
        ends = [t["measured_rate"] / t["end_rate"] for t in measured if t["end_rate"]]
        growths += [t["theory_step"] for t in trials]
        shares += [t["stable_share"] for t in trials]
        table.append(
            {
                **network,
                "predicted rate": spread([t["rate"] for t in trials], ".2e"),
                "measured / predicted": spread(own, ".2f") if own else None,
                "measured / by K after training": spread(ends, ".2f") if ends else None,
                "c from K": spread([t["rate_constant"] for t in trials], ".0f"),
                "c measured": spread(
                    [t["rate_constant"] * t["measured_rate"] / t["rate"] for t in measured], ".0f"
                )
                if own
                else None,
                "stable step / theory's": spread([t["stable_share"] for t in trials], ".2f"),
                "loss after 30 of theory's steps / first": _growth(trials),
                "largest change of b": spread([t["moved"] for t in trials], ".1f"),
            }
        )
    found.tables["Theorem 7: rate of gradient descent, and steps"] = table
    _judge_rate(found, descents)
    grew = sum(growth is None or growth > 1 for growth in growths)
    found.claim(
        "Theorem 2's step N^2 / beta^2 trains the network",
        "contradicted" if grew == len(growths) else "holds in part" if grew else "holds",
        f"it multiplies the loss in {grew} of {len(growths)} descents; the largest stable step is "
        f"{min(shares):.2f} to {max(shares):.2f} of it, since the hidden layer learns too",
    )
    _lemma3(found, descents)


def _judge_rate(found: Findings, descents: Sequence[Row]) -> None:
    """Whether the kernel at initialisation gives the rate, and whether that after training does."""
    measured = [row for row in descents if row["measured_rate"] is not None and row["end_rate"]]
    if not measured:
        return
    by_data = group(measured, lambda row: row["data"])
    evidence, close = [], 0
    for name, rows in by_data.items():
        ratios = [row["measured_rate"] / row["rate"] for row in rows]
        close += sum(abs(ratio - 1) <= CLOSE for ratio in ratios)
        evidence.append(f"{name} {spread(ratios, '.2f')} ({min(ratios):.2f} to {max(ratios):.2f})")
    ends = [row["measured_rate"] / row["end_rate"] for row in measured]
    found.claim(
        "Theorem 7: the loss falls linearly, at a rate set by the initial network "
        "(2 lambda_min of the tangent kernel of both layers)",
        "holds" if close == len(measured) else "holds in part" if close else "contradicted",
        f"measured / predicted: {'; '.join(evidence)}; within a third in {close} of "
        f"{len(measured)} descents. By the kernel after training, which training moves: "
        f"{spread(ends, '.2f')} ({min(ends):.2f} to {max(ends):.2f})",
    )


def _growth(trials: Sequence[Row]) -> str:
    finite = [t["theory_step"] for t in trials if t["theory_step"] is not None]
    if len(finite) < len(trials):
        return "beyond all numbers"
    return f"{min(finite):.1e} to {max(finite):.1e}"


def _lemma3(found: Findings, descents: Sequence[Row]) -> None:
    """Whether the output weights move less in wider networks."""
    moved = group(descents, lambda row: row["width"])
    means = {n: mean_and_deviation([row["moved"] for row in rows]) for n, rows in moved.items()}
    if len(means) < 2:
        return
    first, last = means[min(means)][0], means[max(means)][0]
    found.claim(
        "Lemma 3: the output weights stay bounded, more tightly in wider networks",
        "holds" if last < 0.5 * first else "holds in part" if last < 2 * first else "contradicted",
        "largest change of an output weight: "
        + ", ".join(f"N={n:,}: {m:.1f} ± {s or 0:.1f}" for n, (m, s) in sorted(means.items())),
    )


def _condition_numbers(found: Findings, spectra: Sequence[Row]) -> None:
    table, powers, evidence = [], [], []
    for name, rows in sorted(group(spectra, lambda row: row["data"]).items()):
        sizes = group(rows, lambda row: row["samples"])
        for m, trials in sizes.items():
            kappa = [row["beta"] / row["alpha"] for row in trials]
            shown = {key: [t[key] for t in trials] for key in ("rate_constant", "stable_share")
                     if key in trials[0]}  # fmt: skip
            table.append(
                {
                    "data": name, "m": m, "N": trials[0]["width"],
                    "kappa": mean_and_deviation(kappa)[0],
                    "standard deviation": mean_and_deviation(kappa)[1],
                    "kappa^2": float(np.mean(np.square(kappa))),
                    "c from K": spread(shown["rate_constant"], ".0f") if shown else None,
                    "stable step / theory's": spread(shown["stable_share"], ".2f")
                    if shown else None,
                }
            )  # fmt: skip
        x = np.array([row["samples"] for row in rows], dtype=float)
        y = np.array([(row["beta"] / row["alpha"]) ** 2 for row in rows])
        slope, low, high = slope_interval(x, y)
        errors = {fit.law: fit.rms for fit in growth_fits(x, y)}
        powers.append(
            {"data": name, "power of m": slope, "95 %": f"{low:.2f} to {high:.2f}",
             **{f"relative error, {law}": error for law, error in errors.items()}}
        )  # fmt: skip
        ends = (f"{y[x == end].mean():,.3g}" for end in (x.min(), x.max()))
        evidence.append(f"{name}: m^{slope:.2f} ({low:.2f} to {high:.2f}), {' to '.join(ends)}")
    found.tables["kappa against the samples"] = table
    found.tables["kappa^2: fitted growth"] = powers
    by_data = {row["data"]: row for row in powers}
    gaussian, real = by_data["gaussian"], [r for r in powers if r["data"] != "gaussian"]
    faster = sum(row["power of m"] > 2 * gaussian["power of m"] for row in real)
    numbers = "; ".join(evidence)
    found.claim(
        "kappa grows with the dataset as for a near-Gaussian matrix",
        "contradicted" if faster == len(real) else "holds in part" if faster else "holds",
        f"kappa^2 over m: {numbers}",
    )
    bent = sum(row["relative error, a + b log x"] < row["relative error, a x^p"] for row in real)
    found.claim(
        "the pre-training needed, kappa^2 log k, is logarithmic in the dataset",
        "holds" if bent == len(real) else "holds in part" if bent else "contradicted",
        "relative error of a + b log m against a m^p: "
        + "; ".join(
            f"{r['data']} {r['relative error, a + b log x']:.0%} against "
            f"{r['relative error, a x^p']:.0%}"
            for r in real
        ),
    )
