"""Runs of one command beside each other, as the points of a sweep: a table, a plot and a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gfs_dist.files import atomic
from gfs_dist.records import CLAIMS, COMPARISON, FORMAT, OWN_ROWS, Report, read_report
from gfs_dist.report import style, text
from gfs_dist.report.advice import verdict
from gfs_dist.report.plots import Plot
from gfs_dist.report.render import to_html, to_markdown

MOST_LINES = 12
MEASURED = ("accuracy", "loss")
ITERATION, SIZE = "iteration", "multiply-adds"
FACTS = (
    "name", "iteration", "objective", "kept", "steps", "stop_reason", "loss", "accuracy",
    "perplexity", "kl", "cosine", "accuracy_train", "accuracy_validation", "accuracy_before",
    "macs", "params", "picks_sha256", "dense",
)  # fmt: skip
"""Of a result, what a comparison repeats."""

Row = Mapping[str, Any]
COLUMNS: Mapping[str, tuple[Callable[[Row], Any], Callable[[Any], str]]] = {
    "iteration": (lambda row: row.get("iteration"), text.count),
    "kept": (lambda row: row.get("kept"), text.count),
    "picks": (lambda row: row.get("steps"), text.count),
    "multiply-adds": (lambda row: None if "steps" in row else row.get("macs"), text.count),
    "loss": (lambda row: row.get("loss"), text.loss),
    "dense loss": (lambda row: (row.get("dense") or {}).get("loss"), text.loss),
    "perplexity": (lambda row: row.get("perplexity"), text.loss),
    "KL": (lambda row: row.get("kl"), text.loss),
    "cosine": (lambda row: row.get("cosine"), text.loss),
    "accuracy": (lambda row: row.get("accuracy"), text.percent),
    "dense accuracy": (lambda row: (row.get("dense") or {}).get("accuracy"), text.percent),
    "train accuracy": (lambda row: row.get("accuracy_train"), text.percent),
    "validation accuracy": (lambda row: row.get("accuracy_validation"), text.percent),
    "accuracy before": (lambda row: row.get("accuracy_before"), text.percent),
    "verdict": (lambda row: row.get("verdict"), text.anything),
}
"""What is shown of a result: its value in a row, and that value as words."""


@dataclass(frozen=True)
class ComparedRun:
    """One run.

    Attributes:
        name: as it is shown.
        folder: of the run, relative to the page; None where there is none.
        values: of the keys that are compared, the same keys in every run.
        report: what ``report.json`` holds.
    """

    name: str
    folder: str | None
    values: Mapping[str, Any]
    report: Mapping[str, Any]

    @property
    def link(self) -> str | None:
        """Where the run's own page is, as a URL without its ending."""
        return None if self.folder is None else quote(f"{self.folder}/report")


@dataclass(frozen=True)
class Comparison:
    """Runs of one command, at least one."""

    runs: Sequence[ComparedRun]

    @property
    def command(self) -> str:
        return str(self.runs[0].report["job"])

    @property
    def own_rows(self) -> bool:
        """Whether results are no networks but rows of the command's own."""
        return self.command in OWN_ROWS

    @property
    def keys(self) -> list[str]:
        return list(self.runs[0].values)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The results of all runs; of one that trained, or judged a training, its last checkpoint;
        of an experiment the paper's claims.
        """
        rows = []
        for run in self.runs:
            whose: dict[str, Any] = {"run": run.name, "values": {**run.values}}
            results: Sequence[Any] = read_report(run.report)["results"]
            if self.command == "reproduce":
                results = (run.report.get("tables") or {}).get(CLAIMS, [])
            if self.own_rows:
                rows += [whose | row for row in results]
                continue
            if "advice" in run.report:
                whose["verdict"] = verdict(run.report["advice"])
            for row in results[-1:] if self.command in ("pretrain", "advise") else results:
                rows.append(whose | {fact: row[fact] for fact in FACTS if fact in row})
        return rows

    @property
    def has_sizes(self) -> bool:
        """Whether a run has several results of one checkpoint, as ``gfs cut`` makes them."""
        makers = [(row["run"], row.get(ITERATION)) for row in self.rows]
        return len({*makers}) < len(makers) and not self.own_rows

    @cached_property
    def table(self) -> list[dict[str, Any]]:
        """The rows as they are shown, in plain values; without columns that are empty."""
        if self.own_rows:
            table = [{"run": r["run"], **r["values"], **r} for r in self.rows]
            columns = dict.fromkeys(key for row in table for key in row if key != "values")
            return [{key: _plain(row.get(key)) for key in columns} for row in table]
        table = [{title: value(row) for title, (value, _) in COLUMNS.items()} for row in self.rows]
        shown = [title for title in COLUMNS if any(row[title] is not None for row in table)]
        return [
            {"run": row["run"]}
            | ({"result": row["name"]} if self.has_sizes else {})
            | {**row["values"]}
            | {title: cells[title] for title in shown}
            for row, cells in zip(self.rows, table, strict=True)
        ]

    @property
    def words(self) -> list[dict[str, str]]:
        """The same table in words."""
        own = [*self.keys, "run", "result"]
        formats = {title: words for title, (_, words) in COLUMNS.items() if title not in own}
        return [
            {title: formats.get(title, text.anything)(value) for title, value in row.items()}
            for row in self.table
        ]

    @property
    def summary(self) -> list[str]:
        """The most accurate result, and runs that have not finished."""
        apart = f" that differ in {text.listed(self.keys)}" if self.keys else ""
        lines = [f"{text.several(len(self.runs), 'run')} of gfs {self.command}{apart}."]
        known = [row for row in self.rows if isinstance(row.get("accuracy"), float)]
        if known and not self.own_rows:
            best = max(known, key=lambda row: row["accuracy"])
            where = [f"{key}={text.anything(value)}" for key, value in best["values"].items()]
            at = best.get("iteration")
            where += [] if at is None else [f"iteration {at:,}"]
            whose = f"run {best['run']} ({', '.join(where)})"
            lines.append(f"The best accuracy is {text.percent(best['accuracy'])}, of {whose}.")
        for run in self.runs:
            how = run.report.get("status")
            lines += [] if how == "finished" else [f"Run {run.name} has not finished: {how}."]
        return lines

    @property
    def content(self) -> Report:
        """What its ``report.json`` holds."""
        last = self.runs[-1].report
        return {
            "format": FORMAT,
            "job": COMPARISON,
            "compares": self.command,
            "keys": self.keys,
            "status": "finished",
            "results": self.rows,  # type: ignore[typeddict-item] # or rows as they are
            "machine": last.get("machine") or {},
            "versions": last.get("versions") or {},
        }


def differing(configurations: Sequence[Mapping[str, Any]], but: Sequence[str]) -> list[str]:
    """The keys in which flat configurations differ, without those in ``but``.

    Of keys that tell the same runs apart by the same values (``seed`` and ``data.seed``) the
    first is enough.
    """
    columns: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for config in configurations for key in config):
        values = [config.get(key) for config in configurations]
        differ = any(value != values[0] for value in values)
        if differ and key not in but and values not in columns.values():
            columns[key] = values
    return list(columns)


def write_comparison(folder: Path | str, comparison: Comparison) -> None:
    """Write ``report.md``, ``report.html`` and the plot of several runs.

    Args:
        folder: made if it does not exist.
        comparison: the runs.

    Raises:
        StorageError: a file could not be written.
    """
    folder = Path(folder)
    with mpl.rc_context(style.RC):
        figure = accuracy_and_loss(comparison)
        plots = [Plot.of("accuracy_and_loss", accuracy_and_loss, figure)] if figure else []
    with atomic.storage_errors(folder):
        (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in plots:
        atomic.write_bytes(folder / "plots" / plot.file, plot.png)
    title = f"gfs {comparison.command}: {text.several(len(comparison.runs), 'run')}"
    facts = {"title": title, "comparison": comparison, "plots": plots}
    atomic.write_text(folder / "report.md", to_markdown("comparison", facts))
    atomic.write_text(folder / "report.html", to_html("comparison", facts))


def accuracy_and_loss(comparison: Comparison) -> Figure | None:
    """Accuracy on the test split and loss of every result, against the key that is a number, else
    against the iterations of training, else run by run; a line for each combination of the others
    (of many, twelve that are spread out).
    """
    rows = [] if comparison.own_rows else comparison.rows
    drawn = [name for name in MEASURED if any(row.get(name) is not None for row in rows)]
    if not drawn:
        return None
    along = _along(comparison)
    lines = _lines(comparison, along)
    places = [place for points in lines.values() for place, _ in points]
    figure = style.canvas(4.8 * len(drawn) + 1.4, 4.2)
    for axes, name in zip(style.panels(figure, len(drawn), len(drawn)), drawn, strict=True):
        _draw(axes, lines, name, "o-" if along else "o")
        axes.set_xlabel(along or "run")
        if along:
            whole = all(place == int(place) for place in places)
            axes.xaxis.set_major_locator(MaxNLocator(7, integer=whole))
            style.log_where_sensible(axes, "x", places, 20)
        else:
            _name_places(axes, comparison)
    if len(lines) > 1:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def _along(comparison: Comparison) -> str | None:
    """The key along the horizontal axis, or a column; None if runs have only their names."""
    if comparison.has_sizes and all(row.get("macs") for row in comparison.rows):
        return SIZE
    several = {}
    for key in comparison.keys:
        values = {_number(run.values[key]) for run in comparison.runs}
        if None not in values and len(values) > 1 and not key.endswith("seed"):
            several[key] = len(values)
    if several:
        return max(several, key=lambda key: several[key])
    iterations = {row.get(ITERATION) for row in comparison.rows}
    return ITERATION if len(iterations - {None}) > 1 else None


def _lines(comparison: Comparison, along: str | None) -> dict[str, list[tuple[float, Row]]]:
    """Place and row of each point by the label of its line: what tells it from the others."""
    order = {run.name: place for place, run in enumerate(comparison.runs)}
    iterations = {row.get(ITERATION) for row in comparison.rows}
    for with_run in (False, True):
        lines: dict[str, list[tuple[float, Row]]] = {}
        for row in comparison.rows:
            values, at = row["values"], row.get(ITERATION)
            label = [] if along is None else [f"{k}={v}" for k, v in values.items() if k != along]
            if along != ITERATION and len(iterations) > 1 and at is not None:
                label.append(f"{at:,} iterations")
            label += [row["run"]] if with_run else []
            columns = {ITERATION: at, SIZE: row.get("macs")}
            found = None if along is None else _number(columns.get(along, values.get(along)))
            place = order[row["run"]] if found is None else found
            lines.setdefault(", ".join(label), []).append((place, row))
        if all(len({place for place, _ in points}) == len(points) for points in lines.values()):
            break
    return {label: lines[label] for label in style.spread_out(list(lines), MOST_LINES)}


def _draw(axes: Axes, lines: Mapping[str, list[tuple[float, Row]]], name: str, mark: str) -> None:
    """One measure of all results."""
    colours = style.ordered_colours(len(lines))
    for (label, points), colour in zip(lines.items(), colours, strict=True):
        known = sorted((at, row[name]) for at, row in points if row.get(name) is not None)
        if known:
            axes.plot(*zip(*known, strict=True), mark, color=colour, markersize=4, label=label)
    axes.set_ylabel(name)
    if name == "accuracy":
        style.accuracy_axis(axes)
    else:
        values = [row[name] for points in lines.values() for _, row in points if row.get(name)]
        style.log_where_sensible(axes, "y", values)


def _name_places(axes: Axes, comparison: Comparison) -> None:
    names = [
        "\n".join(f"{key}={value}" for key, value in run.values.items()) or run.name
        for run in comparison.runs
    ]
    shown = style.spread_out(range(len(names)), MOST_LINES)
    axes.set_xticks(shown, [names[place] for place in shown], rotation=30, ha="right", fontsize=8)


def _number(value: Any) -> float | None:
    """A number, or a share as ``50%``; None of anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", value) if isinstance(value, str) else None
    return float(share[1]) / 100 if share else None


def _plain(value: Any) -> Any:
    """A cell of unknown meaning: lists and repeated measurements in words, hashes shortened."""
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[: text.HASH_DIGITS]
    return text.anything(value) if isinstance(value, dict | list) else value
