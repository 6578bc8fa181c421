"""What a run found, in sentences that need no knowledge of the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gfs_dist.report import deep_summary
from gfs_dist.report import text as words
from gfs_dist.report.facts import TRAINS, Result, training

# A pruned network this close to the fully trained dense one counts as having kept its accuracy.
CLOSE = 0.01


def summary(report: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """The sentences, the most important first."""
    lines = [
        *_status(report),
        *(_trained(report) if report.get("job") in TRAINS else _pruned(results)),
        *_faults(report.get("faults") or []),
        *report.get("notes", []),
    ]
    return lines or ["The run has no results yet."]


def _trained(report: Mapping[str, Any]) -> list[str]:
    """What training came to."""
    points = training(report)
    if len(points) < 2:
        return []
    (_, before), (iterations, after) = points[0], points[-1]
    best, accuracy = max(points, key=lambda point: point[1])
    line = (
        f"{iterations:,} iterations of training took the accuracy on the test split from "
        f"{words.percent(before)} to {words.percent(after)}"
    )
    if accuracy > after:
        line += f"; the best checkpoint is that of iteration {best:,} ({words.percent(accuracy)})"
    return [f"{line}."]


def _pruned(results: Sequence[Result]) -> list[str]:
    deep = [result for result in results if result.deep]
    return _deep(deep) if deep else _two_layer(results)


def _status(report: Mapping[str, Any]) -> list[str]:
    status, number = report.get("status"), len(report.get("results", []))
    if status == "stopped":
        return [
            f"The run was stopped before its end, with {words.several(number, 'result')}; "
            "`resume=RUN_DIR` with the path of this folder continues it."
        ]
    if status == "failed":
        reason = f": {report['error']}" if report.get("error") else ""
        return [f"The run failed after {words.several(number, 'result')}{reason}"]
    return []


def _deep(results: Sequence[Result]) -> list[str]:
    return [*deep_summary.summary(results), *_enough_pretraining(results)]


def _two_layer(results: Sequence[Result]) -> list[str]:
    return [
        *_headline(results),
        *_pruned_against_dense(results),
        *_enough_pretraining(results),
        *_loss_against_dense(results),
        *_lemma1(results),
    ]


def _headline(results: Sequence[Result]) -> list[str]:
    """What the last checkpoint's pruned network keeps."""
    if not results or results[-1].row.get("kept") is None:
        return []
    last = results[-1]
    kept = f"{words.count(last.row['kept'])} neurons"
    if last.kept_share is not None:
        kept = (
            f"{words.count(last.row['kept'])} of {words.count(last.num_neurons)} neurons "
            f"({words.percent(last.kept_share, 1)})"
        )
    when = "" if last.iteration is None else f" after {last.iteration:,} iterations of pre-training"
    if last.accuracy is not None and last.dense_accuracy:
        share = words.percent(last.accuracy / last.dense_accuracy, 1)
        return [
            f"{kept} keep {share} of the dense accuracy{when} "
            f"({words.percent(last.accuracy)} against {words.percent(last.dense_accuracy)})."
        ]
    if last.loss is not None and last.dense_loss is not None:
        return [
            f"{kept} reach a loss of {words.loss(last.loss)}{when} "
            f"(the dense network: {words.loss(last.dense_loss)})."
        ]
    return [f"{kept} were picked{when}."]


def _pruned_against_dense(results: Sequence[Result]) -> list[str]:
    """Where the pruned network beats the dense one it came from, and where it loses."""
    compared = [
        (result, result.accuracy - result.dense_accuracy)
        for result in results
        if result.accuracy is not None and result.dense_accuracy is not None
    ]
    lines = []
    for sign, word in ((1, "more"), (-1, "less")):
        chosen = [(result, sign * gain) for result, gain in compared if sign * gain > 0]
        if chosen:
            everywhere = len(chosen) == len(compared) > 1
            where = "every checkpoint" if everywhere else _iterations([r for r, _ in chosen])
            lines.append(
                f"The pruned network is {word} accurate than the dense one it came from at "
                f"{where} (by up to {100 * max(gain for _, gain in chosen):.1f} points)."
            )
    return lines


def _enough_pretraining(results: Sequence[Result]) -> list[str]:
    """From which checkpoint on pruning keeps the accuracy of the fully trained dense network."""
    known = sorted(
        (result.iteration, result.accuracy, result.dense_accuracy)
        for result in results
        if result.iteration is not None
        and result.accuracy is not None
        and result.dense_accuracy is not None
    )
    if len({iteration for iteration, _, _ in known}) < 2:
        return []
    last, _, goal = known[-1]
    target = (
        f"within {100 * CLOSE:g} point of the dense network of iteration {last:,} "
        f"({words.percent(goal)})"
    )
    enough = [point for point in known if point[1] >= goal - CLOSE]
    if not enough:
        iteration, accuracy, _ = max(known, key=lambda point: point[1])
        return [
            f"No pruned network comes {target}; the best is {words.percent(accuracy)} at "
            f"iteration {iteration:,}: keep more, or train longer."
        ]
    first, accuracy, _ = enough[0]
    short = [point for point in known if point[0] < first]
    line = f"The first pruned network {target} comes from iteration {first:,}"
    if not short:
        return [f"{line}: no checkpoint of this run had too little pre-training."]
    noun = "iteration" if len(short) == 1 else "iterations"
    return [
        f"{line} ({words.percent(accuracy)}); pre-training was too short at "
        f"{noun} {words.listed([f'{point[0]:,}' for point in short])} "
        f"({words.percent(max(point[1] for point in short))} at best)."
    ]


def _loss_against_dense(results: Sequence[Result]) -> list[str]:
    """Whether fewer neurons fit the data even better than all of them do."""
    lower = [
        result
        for result in results
        if result.loss is not None
        and result.dense_loss is not None
        and result.loss < result.dense_loss
    ]
    if not lower:
        return []
    return [
        f"At {_iterations(lower)} the chosen neurons fit the data that was pruned on better than "
        "the whole dense network (lower loss), a sign that its training had further to go."
    ]


def _lemma1(results: Sequence[Result]) -> list[str]:
    bounded = [r for r in results if r.bound]
    if not bounded:
        return []
    broken = [r for r in bounded if r.first_above_bound is not None]
    if broken:
        where = words.listed([f"{r.label} (pick {r.first_above_bound})" for r in broken])
        return [
            f"The loss is above the bound of Lemma 1 at {where}. The lemma is proved, so the "
            "losses or the constants must be wrong: please report this run."
        ]
    line = "The loss stays within the bound of Lemma 1 after every pick of every path"
    ratios = [r.bound[-1] / r.losses[-1] for r in bounded if r.losses[-1] > 0]
    if not ratios:
        return [f"{line}."]
    loose = " to ".join(dict.fromkeys([f"{min(ratios):.3g}", f"{max(ratios):.3g}"]))
    return [f"{line}; the bound is {loose} times the loss after the last pick."]


def _faults(faults: Sequence[Mapping[str, Any]]) -> list[str]:
    if not faults:
        return []
    times = [fault["recovered_s"] for fault in faults if fault.get("recovered_s") is not None]
    slowest = f", the slowest in {words.seconds(max(times))}" if times else ""
    return [f"{words.several(len(faults), 'fault')} in the run, {len(times)} recovered{slowest}."]


def _iterations(results: Sequence[Result]) -> str:
    """Where several results are, by iteration or name."""
    if any(r.iteration is None for r in results):
        return words.listed([r.label for r in results])
    noun = "iteration" if len(results) == 1 else "iterations"
    return f"{noun} {words.listed([f'{r.iteration:,}' for r in results])}"
