"""What pruning layer by layer came to, in sentences that need no knowledge of the method."""

from __future__ import annotations

from collections.abc import Sequence

from gfs_dist.report import text as words
from gfs_dist.report.deep import REPAIRS
from gfs_dist.report.facts import Result, Speed

MOST_HEADLINES = 4
# Two timings of one network differ by this much on a quiet machine.
SAME_TIME = 0.03


def summary(results: Sequence[Result]) -> list[str]:
    """The sentences, the most important first; a network that became slower is one of them."""
    shown = results if len(results) <= MOST_HEADLINES else results[-1:]
    several = len(results) > 1
    lines = []
    for result in shown:
        who = f"`{result.name}`: " if several else ""
        found = [*_size(result), *repairs(result), *speed(result)]
        lines += [f"{who}{line}" for line in found]
    return [*lines, *_whole(results[-1])]


def speed(result: Result) -> list[str]:
    """Beside the dense network under each condition; the slower ones first and plainly."""
    slower = [s for s in result.speeds if s.pruned_s > s.dense_s * (1 + SAME_TIME)]
    faster = [s for s in result.speeds if s.pruned_s < s.dense_s / (1 + SAME_TIME)]
    equal = [s for s in result.speeds if s not in slower and s not in faster]
    share = result.share("macs")
    although = f", with {words.percent(share, 1)} of its multiply-adds" if share else ""
    lines = [
        f"SLOWER than the dense network {_condition(s)}: {words.seconds(s.pruned_s)} against "
        f"{words.seconds(s.dense_s)}, {s.pruned_s / s.dense_s:.2f} times the time{although}."
        for s in slower
    ]
    lines += [
        f"As fast as the dense network {_condition(s)} ({words.seconds(s.pruned_s)}){although}."
        for s in equal
    ]
    if faster:
        times = [
            f"{s.dense_s / s.pruned_s:.2f} times {_condition(s)} ({words.seconds(s.pruned_s)} "
            f"against {words.seconds(s.dense_s)})"
            for s in faster
        ]
        lines.append(f"Faster than the dense network: {words.listed(times)}.")
    return lines


def repairs(result: Result) -> list[str]:
    """What each stage of mending did to the accuracy."""
    after = result.accuracy_after
    done = [stage for stage in REPAIRS if stage in after]
    if len(done) < 2:
        return []
    steps = [f"{REPAIRS[stage]} {words.percent(after[stage])}" for stage in done]
    return [f"Accuracy after each stage: {', '.join(steps)}."]


def _size(result: Result) -> list[str]:
    shares = [
        f"{words.percent(share, 1)} of the {name}"
        for key, name in (("macs", "multiply-adds"), ("params", "parameters"))
        if (share := result.share(key)) is not None
    ]
    if not shares:
        return []
    what = words.listed(shares)
    if result.accuracy is None:
        return [f"The pruned network has {what}."]
    if not result.dense_accuracy:
        reached = words.percent(result.accuracy)
        return [f"The pruned network has {what}, and an accuracy of {reached}."]
    kept = words.percent(result.accuracy / result.dense_accuracy, 1)
    return [
        f"{what} keep {kept} of the dense accuracy ({words.percent(result.accuracy)} against "
        f"{words.percent(result.dense_accuracy)})."
    ]


def _whole(result: Result) -> list[str]:
    """How many layers could not be pruned."""
    if not result.skipped:
        return []
    count = words.several(len(result.skipped), "layer")
    verb = "stays" if len(result.skipped) == 1 else "stay"
    return [f"{count} of {len(result.row['layers'])} {verb} whole; the last table says why."]


def _condition(speed: Speed) -> str:
    return f"at batch {speed.batch} on {speed.device}"
