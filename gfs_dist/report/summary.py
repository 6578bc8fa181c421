"""The findings of a run, in sentences that need no knowledge of the method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from gfs_dist.records import FaultRow, Report
from gfs_dist.report import text
from gfs_dist.report.advice import advised
from gfs_dist.report.facts import TEXT_MEASURES, TRAINS, Result, Run, share

CLOSE = 0.01
"""A pruned network this close to the fully trained dense one has kept its accuracy."""

SAME_TIME = 0.03
"""Two timings of one network differ by this much on a quiet machine."""

MOST_HEADLINES = 4

REPAIRS = {
    "cut": "cut alone",
    "refit": "least-squares refit",
    "streams": "stream repair",
    "batch_norm": "batch norms measured again",
    "finetune": "fine-tuning",
}
"""Stages of ``accuracy_after``, in their order."""


def summary(run: Run) -> list[str]:
    """The sentences, the most important first."""
    lines = [
        *_status(run.report),
        *(advised(run.report["advice"]) if "advice" in run.report else []),
        *(_trained(run) if run.report["job"] in TRAINS else _pruned(run)),
        *_faults(run.report["faults"]),
        *run.report["notes"],
    ]
    return lines or ["The run has no results yet."]


def _status(report: Report) -> list[str]:
    number = text.several(len(report["results"]), "result")
    if report["status"] == "stopped":
        return [
            f"The run was stopped before its end, with {number}; "
            "`resume=RUN_DIR` with the path of this folder continues it."
        ]
    if report["status"] == "failed":
        reason = f": {report['error']}" if report.get("error") else ""
        return [f"The run failed after {number}{reason}"]
    return []


def _trained(run: Run) -> list[str]:
    points = run.training
    if len(points) < 2:
        return []
    (_, before), (iterations, after) = points[0], points[-1]
    best, accuracy = max(points, key=lambda point: point[1])
    line = (
        f"{iterations:,} iterations of training took the accuracy on the test split from "
        f"{text.percent(before)} to {text.percent(after)}"
    )
    if accuracy > after:
        line += f"; the best checkpoint is that of iteration {best:,} ({text.percent(accuracy)})"
    return [f"{line}."]


def _pruned(run: Run) -> list[str]:
    if run.deep:
        return [*_layer_by_layer(run.deep), *_enough_pretraining(run.deep)]
    return [
        *_headline(run.results),
        *_pruned_against_dense(run.results),
        *_enough_pretraining(run.results),
        *_loss_against_dense(run.results),
        *_lemma1(run.results),
    ]


def _layer_by_layer(results: Sequence[Result]) -> list[str]:
    """Of deep networks: sizes, repairs and speeds, slower ones as plainly as faster ones."""
    shown = results if len(results) <= MOST_HEADLINES else results[-1:]
    lines = []
    for result in shown:
        name = f"`{result.name}`: " if len(results) > 1 else ""
        found = [*_size(result), *repairs(result), *speed(result), *_storage(result)]
        lines += [f"{name}{line}" for line in found]
    skipped = results[-1].skipped
    if skipped:
        verb = "stays" if len(skipped) == 1 else "stay"
        lines.append(
            f"{text.several(len(skipped), 'layer')} of {len(results[-1].row['layers'])} {verb} "
            "whole; the last table says why."
        )
    return lines


def _size(result: Result) -> list[str]:
    row, dense = result.row, result.dense
    shares = {
        "multiply-adds": share(row["macs"], dense["macs"]),
        "parameters": share(row["params"], dense["params"]),
    }
    known = [f"{text.percent(s, 1)} of the {name}" for name, s in shares.items() if s is not None]
    if not known:
        return []
    size, accuracy = text.listed(known), row["accuracy"]
    if accuracy is None:
        return [f"The pruned network has {size}."]
    if not dense["accuracy"]:
        return [f"The pruned network has {size}, and an accuracy of {text.percent(accuracy)}."]
    return [_keeps(size, accuracy, dense["accuracy"])]


def _keeps(size: str, accuracy: float, dense: float, when: str = "") -> str:
    """A sentence on the part of the dense accuracy that ``size`` keeps."""
    return (
        f"{size} keep {text.percent(accuracy / dense, 1)} of the dense accuracy{when} "
        f"({text.percent(accuracy)} against {text.percent(dense)})."
    )


def repairs(result: Result) -> list[str]:
    """The accuracy, or what counts on text, after each repair that was done."""
    if result.of_text:
        return [*_text_quality(result), *_streams(result)]
    after = result.accuracy_after
    done = [stage for stage in REPAIRS if stage in after]
    if len(done) < 2:
        return []
    steps = [f"{REPAIRS[stage]} {text.percent(after[stage])}" for stage in done]
    return [f"Accuracy after each stage: {', '.join(steps)}.", *_streams(result)]


def _storage(result: Result) -> list[str]:
    """What loads a model of transformers."""
    storage = result.row.get("storage", {})
    if storage.get("loads") == "transformers":
        return ["Its folder is one for `from_pretrained` of transformers, too."]
    if "reason" in storage:
        return [f"`gfs_dist.load` reads it, `from_pretrained` does not: {storage['reason']}."]
    return []


def _text_quality(result: Result) -> Iterator[str]:
    for measure, after in result.text_quality_after.items():
        known = {"dense": cast(dict[str, Any], result.dense).get(measure), **after}
        steps = {"dense": "dense", **REPAIRS}
        done = [stage for stage in steps if known.get(stage) is not None]
        words = ", ".join(f"{steps[stage]} {text.loss(known[stage])}" for stage in done)
        yield f"{TEXT_MEASURES[measure]} after each stage: {words}."


def _streams(result: Result) -> list[str]:
    """What the repair of streams took."""
    found = result.row.get("streams")
    if found is None:
        return []
    return [
        f"Stream repair: all weights trained towards the dense network's streams, without labels, "
        f"{found['steps']:,} steps on {text.several(found['samples'], 'calibration image')} in "
        f"{text.seconds(found['seconds'])}."
    ]


def speed(result: Result) -> list[str]:
    """The time beside the dense network's under each condition, the slower ones first."""
    macs = share(result.row["macs"], result.dense["macs"])
    although = f", with {text.percent(macs, 1)} of its multiply-adds" if macs else ""
    slower, equal, faster = [], [], []
    for s in result.speeds:
        pruned, dense = text.seconds(s.pruned_s), text.seconds(s.dense_s)
        if s.pruned_s > s.dense_s * (1 + SAME_TIME):
            slower.append(
                f"SLOWER than the dense network {s.condition}: {pruned} against {dense}, "
                f"{s.pruned_s / s.dense_s:.2f} times the time{although}."
            )
        elif s.pruned_s < s.dense_s / (1 + SAME_TIME):
            times = f"{s.dense_s / s.pruned_s:.2f} times {s.condition}"
            faster.append(f"{times} ({pruned} against {dense})")
        else:
            equal.append(f"As fast as the dense network {s.condition} ({pruned}){although}.")
    fast = [f"Faster than the dense network: {text.listed(faster)}."] if faster else []
    return [*slower, *equal, *fast]


def _headline(results: Sequence[Result]) -> list[str]:
    if not results or results[-1].row["kept"] is None:
        return []
    row, dense, total = results[-1].row, results[-1].dense, results[-1].num_neurons
    kept = f"{text.count(row['kept'])} neurons"
    if kept_share := share(row["kept"], total):
        kept = f"{text.count(row['kept'])} of {text.count(total)} neurons"
        kept += f" ({text.percent(kept_share, 1)})"
    iteration = row["iteration"]
    when = "" if iteration is None else f" after {iteration:,} iterations of pre-training"
    if row["accuracy"] is not None and dense["accuracy"]:
        return [_keeps(kept, row["accuracy"], dense["accuracy"], when)]
    if row["loss"] is not None and dense["loss"] is not None:
        return [
            f"{kept} reach a loss of {text.loss(row['loss'])}{when} "
            f"(the dense network: {text.loss(dense['loss'])})."
        ]
    return [f"{kept} were picked{when}."]


def _pruned_against_dense(results: Sequence[Result]) -> list[str]:
    """Where the pruned network beats the dense one it came from, and where it loses."""
    compared = [
        (result, accuracy - dense)
        for result in results
        if (accuracy := result.row["accuracy"]) is not None
        and (dense := result.dense["accuracy"]) is not None
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
        (iteration, accuracy, dense)
        for result in results
        if (iteration := result.row["iteration"]) is not None
        and (accuracy := result.row["accuracy"]) is not None
        and (dense := result.dense["accuracy"]) is not None
    )
    if len({iteration for iteration, _, _ in known}) < 2:
        return []
    last, _, goal = known[-1]
    target = (
        f"within {100 * CLOSE:g} point of the dense network of iteration {last:,} "
        f"({text.percent(goal)})"
    )
    enough = [point for point in known if point[1] >= goal - CLOSE]
    if not enough:
        iteration, accuracy, _ = max(known, key=lambda point: point[1])
        return [
            f"No pruned network comes {target}; the best is {text.percent(accuracy)} at "
            f"iteration {iteration:,}: keep more, or train longer."
        ]
    first, accuracy, _ = enough[0]
    short = [point for point in known if point[0] < first]
    line = f"The first pruned network {target} comes from iteration {first:,}"
    if not short:
        return [f"{line}: no checkpoint of this run had too little pre-training."]
    noun = "iteration" if len(short) == 1 else "iterations"
    return [
        f"{line} ({text.percent(accuracy)}); pre-training was too short at "
        f"{noun} {text.listed([f'{point[0]:,}' for point in short])} "
        f"({text.percent(max(point[1] for point in short))} at best)."
    ]


def _loss_against_dense(results: Sequence[Result]) -> list[str]:
    """Whether fewer neurons fit the data even better than all of them do."""
    lower = [
        result
        for result in results
        if (loss := result.row["loss"]) is not None
        and (dense := result.dense["loss"]) is not None
        and loss < dense
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
        where = text.listed([f"{r.label} (pick {r.first_above_bound})" for r in broken])
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


def _faults(faults: Sequence[FaultRow]) -> list[str]:
    if not faults:
        return []
    times = [fault["recovered_s"] for fault in faults if fault["recovered_s"] is not None]
    slowest = f", the slowest in {text.seconds(max(times))}" if times else ""
    return [f"{text.several(len(faults), 'fault')} in the run, {len(times)} recovered{slowest}."]


def _iterations(results: Sequence[Result]) -> str:
    if any(r.row["iteration"] is None for r in results):
        return text.listed([r.label for r in results])
    noun = "iteration" if len(results) == 1 else "iterations"
    return f"{noun} {text.listed([text.count(r.row['iteration']) for r in results])}"
