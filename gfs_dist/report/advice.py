"""Whether a training was enough, in words and as a table."""

from __future__ import annotations

from gfs_dist.records import Advice, SeriesRow
from gfs_dist.report import text


def verdict(advice: Advice) -> str:
    """The verdict in a few words."""
    if advice["since"] is None:
        return "too early"
    certainly = "certainly " if advice["verdict"] == "certainly_enough" else ""
    return f"{certainly}enough since iteration {advice['since']:,}"


def advised(advice: Advice) -> list[str]:
    """The verdict, its reason, and what it saves, a sentence each."""
    last = advice["series"][-1]["iteration"] if advice["series"] else 0
    said = verdict(advice)
    lines = [
        f"Pre-training up to iteration {last:,}: {said}; {advice['reason']}.",
        f"The rule: {advice['rule']}.",
    ]
    if saved := advice["saved"]:
        seconds = saved["seconds"]
        time = "" if seconds is None else f", about {text.seconds(seconds)}"
        lines.append(
            f"Stopped at iteration {advice['since']:,}, training is {saved['iterations']:,} of "
            f"{advice['planned']:,} iterations shorter ({text.percent(saved['share'], 0)}{time})."
        )
    return lines


def advice_table(advice: Advice) -> list[dict[str, str]]:
    """The evidence: a row for each checkpoint."""
    return [_row(row) for row in advice["series"]]


def _row(row: SeriesRow) -> dict[str, str]:
    dense = row["dense"]
    return {
        "iteration": text.count(row["iteration"]),
        "pruned, training": text.percent(row["accuracy_train"]),
        "dense, training": text.percent(dense["accuracy_train"]),
        "pruned, held out": text.percent(row["accuracy_held_out"]),
        "dense, held out": text.percent(dense["accuracy_held_out"]),
        "gain": _points(row["gain"]),
        "rise": _points(row["rise"]),
        "loss": text.loss(row["loss"]),
        "dense loss": text.loss(dense["loss"]),
        "overlap": text.percent(row["overlap"], 0),
        "enough": "yes" if row["enough"] else "no",
    }


def _points(share: float | None) -> str:
    return text.NOTHING if share is None else f"{100 * share:+.2f}"
