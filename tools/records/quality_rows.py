"""What a record of quality tells: rows by budget, seconds by phase, findings in words."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from gfs_dist.bench.model.timing_model import spread

Row = dict[str, Any]

SCORES = ("random", "l1", "l2", "bn_scale", "taylor", "hessian")
COLUMNS = ("cut", "batch_norm", "refit")
"""Without fine-tuning, what methods are ranked by."""
TUNED = "finetune"
PAPER = ("layer_output, uniform", "network_loss, uniform")
"""The paper's step weights 1/k, on a layer's outputs and on the network's loss (its own)."""

NOTES = (
    "top-1 on the test images, no fine-tuning; macs: share kept of the whole network's "
    "multiply-adds; every network is cut by the same code and stays within the same limit",
    "cut: as cut (our objectives: counts folded into the consumer; least_squares takes none); "
    "batch_norm: that, with running statistics measured again on the calibration images; refit: "
    "cut, and every layer after a cut fitted again to the dense network",
    "random, l1, l2, bn_scale, taylor, hessian: importance classes of torch-pruning on its own "
    "groups, with its defaults, on the same calibration images; random: mean over draws; "
    "local: the same share of every layer; global: one threshold over all layers; only the better "
    "of the two by batch_norm is refitted",
    "repair of streams: our default with measured widths, refitted with channels picked "
    "again, and that many steps on its streams from there, without labels (0: the refit alone), "
    "with the time of either; fine-tuned: from each of these, with labels (lr 0.01 to 0 by cosine, "
    "batch 128)",
    "finetune, where measured: ours from its refit and the score that is best recalibrated, both "
    "trained on alike (lr 0.01 to 0 by cosine, batch 128)",
    "measured, curves, same share: widths by the layers' errors, weighted by what trials of really "
    "cut networks found (the default), by the plain sum of these errors, and the same for every "
    "layer; "
    "shared: those measured for least_squares, so that only the channels differ",
)


def make_rows(cells: Mapping[str, Row]) -> list[Row]:
    """One row for each budget, method and kind of widths; best first at each budget."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for cell in cells.values():
        if "budget" in cell:
            place = found.setdefault((cell["budget"], cell["method"], cell["widths"]), {})
            for key in ("macs", *COLUMNS, TUNED):
                if key in cell:
                    place.setdefault(key, []).append(cell[key])
    tuned = [TUNED] if any(TUNED in values for values in found.values()) else []
    made = [
        {
            "budget": budget,
            "method": method,
            "widths": widths,
            **{key: _mean(values.get(key, ())) for key in ("macs", *COLUMNS, *tuned)},
        }
        for (budget, method, widths), values in found.items()
    ]
    return sorted(made, key=lambda row: (-float(row["budget"].split()[0]), -_best(row)))


def best_score(cells: Mapping[str, Row], budget: str) -> Row | None:
    """Budget, method, widths and draw of the learnt score that is best recalibrated."""
    rows = [
        cell
        for cell in cells.values()
        if cell.get("budget") == budget
        and cell["method"] in SCORES
        and cell["method"] != "random"
        and "batch_norm" in cell
    ]
    best = max(rows, key=lambda cell: float(cell["batch_norm"]), default=None)
    return best and {key: best[key] for key in ("budget", "method", "widths", "draw")}


def phases(cells: Mapping[str, Row]) -> list[Row]:
    """Seconds that each kind of work took."""
    times: dict[str, list[float]] = {}
    for name, cell in cells.items():
        kind, _, rest = name.partition("/")
        if kind in ("scores", "search", "widths"):
            what = rest.split("/")[: 2 if kind == "widths" else 1]
            kind = f"{kind}: {', '.join(what)}"
        times.setdefault(kind, []).append(cell["seconds"])
    return [
        {"phase": kind, "runs": len(seconds), "seconds": spread(seconds)}
        for kind, seconds in times.items()
    ]


def stream_rows(cells: Mapping[str, Row]) -> list[Row]:
    """One row for each budget and number of steps on streams, fine-tuning beside it; in order."""
    tuned: dict[tuple[str, int], Row] = {}
    for name, cell in cells.items():
        if name.startswith("tuned/"):
            key = f"fine-tuned, {cell['for']} iterations"
            tuned.setdefault((cell["inner"], cell["steps"]), {})[key] = cell["tuned"]
    found = [cell for name, cell in cells.items() if name.startswith("streams/")]
    rows = [
        {
            "share of the inner multiply-adds": cell["inner"],
            "of all": cell["whole"],
            "steps": cell["steps"],
            "accuracy": cell["accuracy"],
            "repair (s)": cell["repair_s"],
            **tuned.get((cell["inner"], cell["steps"]), {}),
        }
        for cell in found
    ]
    return sorted(rows, key=lambda row: (-row["of all"], row["steps"]))


def sources(cells: Mapping[str, Row]) -> list[str]:
    """A note where not all cells were measured by the same code."""
    found = Counter(cell["source"] for cell in cells.values())
    if len(found) == 1:
        return []
    parts = [f"{count} by {name}" for name, count in found.items()]
    return [f"cells measured by {len(found)} states of the package: {', '.join(parts)}"]


def tuning(cells: Mapping[str, Row]) -> list[str]:
    """A note on how long networks were trained on."""
    found = sorted({cell["iterations"] for cell in cells.values() if "iterations" in cell})
    return [f"fine-tuning: {', '.join(map(str, found))} iterations"] if found else []


def findings(cells: Mapping[str, Row]) -> str:
    """A paragraph on all budgets, nothing in it but what the cells show."""
    rows = make_rows(cells)
    words = [f"Dense accuracy {_percent(cells['dense']['accuracy'])}."]
    for budget in dict.fromkeys(row["budget"] for row in rows):
        here = [row for row in rows if row["budget"] == budget]
        said = [*_winner(here), *_paper(here), *_widths(here), *_tuned(here)]
        if said:
            words.append(f"At {budget}: {'; '.join(said)}.")
    return " ".join([*words, *_rising(cells)])


def _winner(rows: list[Row]) -> list[str]:
    ours = [row for row in rows if row["method"] not in SCORES]
    others = [row for row in rows if row["method"] in SCORES]
    said = []
    if ours:
        best = ours[0]
        said.append(f"best of ours {_named(best)}, {_told(best)}")
    for column, what in zip(COLUMNS, ("as cut", "recalibrated", "with our refit"), strict=True):
        if score := _first(others, column):
            said.append(f"best score {what} {_named(score)} {_percent(score[column])}")
    if ours and others:
        gap = 100 * (_best(ours[0]) - _best(others[0]))
        what = "ahead of" if gap > 0 else "behind" if gap < 0 else "level with"
        said.append(f"ours is {abs(gap):.2f} points {what} the best of the scores in any form")
    return said


def _paper(rows: list[Row]) -> list[str]:
    """Whether the paper's step weights are the best of ours, before and after the refit."""
    ours = [row for row in rows if row["method"] not in SCORES]
    said = []
    for name in PAPER:
        own = [row for row in ours if row["method"] == name]
        for column, what in (("cut", "before any repair"), ("refit", "refitted")):
            mine, best = _first(own, column), _first(ours, column)
            if mine is None or best is None:
                continue
            if best[column] > mine[column]:
                said.append(
                    f"the paper's rule on {name.partition(',')[0]} is not the best {what}: "
                    f"{_percent(mine[column])}, {_named(best)} {_percent(best[column])}"
                )
            else:
                said.append(f"the paper's rule on {name.partition(',')[0]} is the best {what}")
    return said


def _widths(rows: list[Row]) -> list[str]:
    """What each rule for widths is worth where one method was measured with several."""
    said = []
    for name in dict.fromkeys(row["method"] for row in rows if row["method"] not in SCORES):
        own = [row for row in rows if row["method"] == name and row["refit"] is not None]
        if len(own) > 1:
            parts = [f"{row['widths']} {_percent(row['refit'])}" for row in own]
            said.append(f"widths for {name}, refitted: {', '.join(parts)}")
    return said


def _tuned(rows: list[Row]) -> list[str]:
    """After fine-tuning."""
    found = sorted((row for row in rows if row.get(TUNED) is not None), key=lambda r: -r[TUNED])
    parts = [f"{_named(row)} {_percent(row[TUNED])}" for row in found]
    return [f"fine-tuned: {', '.join(parts)}"] if parts else []


def _rising(cells: Mapping[str, Row]) -> list[str]:
    """Where a path's loss rises: there its curve says little about what a width is worth."""
    said = []
    for name, cell in cells.items():
        kind, _, method = name.partition("/")
        if kind == "search":
            losses = [path["loss"] for path in cell["paths"].values()]
            rising = sum(max(loss) > loss[0] for loss in losses)
            if rising:
                said.append(f"{method} in {rising} of {len(losses)}")
    if not said:
        return []
    return [f"Layers whose loss is at some width above that of one channel: {', '.join(said)}."]


def _named(row: Row) -> str:
    return f"{row['method']} ({row['widths']} widths)"


def _told(row: Row) -> str:
    values = [(key, row[key]) for key in COLUMNS if row[key] is not None]
    return ", ".join(f"{key} {_percent(value)}" for key, value in values)


def _first(rows: list[Row], column: str) -> Row | None:
    """The row that is best in one column; None where none has it."""
    measured = [row for row in rows if row[column] is not None]
    return max(measured, key=lambda row: float(row[column])) if measured else None


def _best(row: Row) -> float:
    return max(float(row[key]) for key in COLUMNS if row[key] is not None)


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
