"""Whether a network was trained enough to be pruned: rules over a series of pruned checkpoints.

The rule looks back alone, so that a training can stop by it: while training doubled, neither the
best pruned network so far nor the best dense one became better. How often it is wrong is in
tests/records/advise.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gfs_dist.records import SeriesFacts, SeriesRow, Verdict

THRESHOLD = 0.002
"""0.2 points of accuracy: chosen on half of the series of tests/records/advise.json."""

LEARNED = 0.01
"""A pruned network that is not by so much better than that of iteration 0 has learned nothing."""


@dataclass(frozen=True)
class Rule:
    """When a series of checkpoints says that training was enough.

    Checkpoint t is *settled* if its pruned network is better than that of iteration 0, where there
    is one, is within ``threshold`` of the best so far, and either

        best(t) - best(t / growth) < threshold, for the pruned and for the dense network
        1 - accuracy(t) < threshold                   (there is no more to gain)

    where ``best(s)`` is the highest accuracy after 1 to s iterations. So neither checkpoints close
    to each other nor the untrained network make it fire; and where the dense network still
    improves, the pruned one follows. Training was enough at the ``in_a_row``-th settled checkpoint
    in a row.

    Attributes:
        threshold: of accuracy, a share; what it stands below is taken for noise.
        growth: of training, above 1.
        accuracy: which one: of the data that was pruned on, or of held-out data.
        in_a_row: 1 or more.
        earliest: iteration before which no checkpoint is settled.
    """

    threshold: float = THRESHOLD
    growth: float = 2.0
    accuracy: Literal["accuracy_train", "accuracy_held_out"] = "accuracy_train"
    in_a_row: int = 1
    earliest: int = 0

    @property
    def words(self) -> str:
        """The rule in a sentence."""
        on = "training" if self.accuracy == "accuracy_train" else "held-out"
        again = "" if self.in_a_row == 1 else f", at {self.in_a_row} checkpoints in a row"
        return (
            f"neither the pruned nor the dense network's best accuracy on {on} data rose by "
            f"{100 * self.threshold:.2g} points while training grew by a factor of "
            f"{self.growth:g}{again}"
        )

    def rises(self, series: Sequence[SeriesRow], *, dense: bool = False) -> list[float | None]:
        """``best(t) - best(t / growth)`` of each checkpoint; None where there is no earlier one."""
        best = [(0, 0.0)]
        found: list[float | None] = []
        for row in series:
            iteration = row["iteration"]
            if iteration > 0:
                value = self._of(row["dense"] if dense else row)
                best.append((iteration, max(best[-1][1], value)))
            before = [value for t, value in best if 0 < t * self.growth <= iteration]
            found.append(best[-1][1] - before[-1] if before else None)
        return found

    def settled(self, series: Sequence[SeriesRow]) -> list[bool]:
        """Whether each checkpoint is settled, as far as it and those before it tell."""
        found, best = [], 0.0
        untrained = [self._of(row) for row in series if row["iteration"] == 0]
        rises = zip(self.rises(series), self.rises(series, dense=True), strict=True)
        for row, both in zip(series, rises, strict=True):
            value = self._of(row)
            if row["iteration"] > 0:
                best = max(best, value)
            learned = (
                row["iteration"] > max(0, self.earliest - 1)
                and value > max([0.0, *untrained]) + LEARNED
            )
            near, full = best - value < self.threshold, 1.0 - value < self.threshold
            still = all(rise is not None and rise < self.threshold for rise in both)
            found.append(learned and near and (still or full))
        return found

    def fired(self, series: Sequence[SeriesRow]) -> list[bool]:
        """Whether training could have stopped at each checkpoint."""
        settled, run, found = self.settled(series), 0, []
        for one in settled:
            run = run + 1 if one else 0
            found.append(run >= self.in_a_row)
        return found

    def _of(self, row: SeriesFacts) -> float:
        return row[self.accuracy]


class Judgement(NamedTuple):
    """What a series says.

    Attributes:
        since: the first checkpoint at which training was enough and after which no pruned network
            was better by the threshold; None if there is none.
        reason: in words.
    """

    verdict: Verdict
    since: int | None
    reason: str


def judge(series: Sequence[SeriesRow], rule: Rule) -> Judgement:
    """Whether training was enough, as of the last checkpoint of ``series``.

    *Certainly* if the last two checkpoints say so, and the pruned network's loss is no smaller than
    the dense one's: of Theorem 2's two terms the number of neurons then is the larger, not how far
    training brought the dense loss.

    Args:
        series: by rising iteration.
    """
    values, fired = [row[rule.accuracy] for row in series], rule.fired(series)
    stopped = [
        place
        for place, enough in enumerate(fired)
        if enough and max(values[place:]) - values[place] < rule.threshold
    ]
    if not stopped:
        return Judgement("too_early", None, _why_not(series, rule))
    since = series[stopped[0]]["iteration"]
    last, dense_loss = series[-1], series[-1]["dense"]["loss"]
    reason = _why(series[: stopped[0] + 1], rule)
    if len(series) - stopped[0] < 2 or not all(fired[-2:]):
        return Judgement("enough", since, reason)
    if last["loss"] < dense_loss:
        return Judgement("enough", since, reason)
    more = (
        f"; it still holds at iteration {last['iteration']:,}, where the pruned network's loss "
        f"{last['loss']:.4g} is no smaller than the dense one's {dense_loss:.4g}: the number of "
        "neurons is the limit, not training"
    )
    return Judgement("certainly_enough", since, reason + more)


def _why(series: Sequence[SeriesRow], rule: Rule) -> str:
    """Why training was enough at the last checkpoint."""
    last, rise, dense = series[-1], rule.rises(series)[-1], rule.rises(series, dense=True)[-1]
    if rise is None or dense is None or max(rise, dense) >= rule.threshold:
        return (
            f"at iteration {last['iteration']:,} the pruned network's accuracy of "
            f"{100 * last[rule.accuracy]:.2f} % leaves less than {100 * rule.threshold:.2g} points"
        )
    return (
        f"at iteration {last['iteration']:,} the pruned network's best accuracy had risen by "
        f"{100 * rise:.2f} points, the dense one's by {100 * dense:.2f}, while training grew by a "
        f"factor of {rule.growth:g}"
    )


def _why_not(series: Sequence[SeriesRow], rule: Rule) -> str:
    """Why it was not at the last one."""
    if not series or series[-1]["iteration"] == 0:
        return "there is no checkpoint after iteration 0"
    last, rise, dense = series[-1], rule.rises(series)[-1], rule.rises(series, dense=True)[-1]
    best = max((row for row in series if row["iteration"] > 0), key=lambda row: row[rule.accuracy])
    below, where = best[rule.accuracy] - last[rule.accuracy], f"iteration {last['iteration']:,}"
    if rise is None or dense is None:
        return f"no checkpoint before {where} is old enough to compare it with"
    if below >= rule.threshold:
        return (
            f"the pruned network's accuracy at {where} is {100 * below:.2f} points below that of "
            f"iteration {best['iteration']:,}"
        )
    for name, points in (("pruned", rise), ("dense", dense)):
        if points >= rule.threshold:
            return (
                f"the {name} network's best accuracy still rose by {100 * points:.2f} points up to "
                f"{where}, while training grew by a factor of {rule.growth:g}"
            )
    if last["iteration"] < rule.earliest:
        return f"the rule says nothing before iteration {rule.earliest:,}"
    if not rule.settled(series)[-1]:
        return f"pruned at {where} the network is no better than untrained"
    return f"{where} is the first to have settled; {rule.in_a_row} in a row are asked for"
