"""Several runs on one page: which rows, columns, lines of the plot and links it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gfs_dist.report.comparison import (
    ComparedRun,
    Comparison,
    accuracy_and_loss,
    differing,
    write_comparison,
)


def row(iteration: int | None = 0, accuracy: float | None = 0.5, **more: Any) -> dict[str, Any]:
    return {"name": "x", "iteration": iteration, "accuracy": accuracy, "loss": 0.25, **more}


def compared(
    *values: dict[str, Any], job: str = "prune", rows: list[dict[str, Any]] | None = None
) -> Comparison:
    report = {"job": job, "status": "finished", "results": [row()] if rows is None else rows}
    return Comparison(
        [ComparedRun(str(n), f"../{n}", value, report) for n, value in enumerate(values)]
    )


def drawn(comparison: Comparison) -> tuple[str, dict[str, list[float]]]:
    """The label of the horizontal axis, and the places of each line."""
    figure = accuracy_and_loss(comparison)
    assert figure is not None
    axes = figure.axes[0]
    places: dict[str, list[float]] = {}
    for line in axes.get_lines():
        places[str(line.get_label()).replace("_child0", "")] = [*np.asarray(line.get_xdata())]
    return axes.get_xlabel(), places


def test_the_number_with_most_values_is_the_axis() -> None:
    values = [{"a": a, "steps": steps, "w": w} for a in (1, 2) for steps in (5, 9, 7) for w in "uv"]
    assert drawn(compared(*values)) == (
        "steps",
        {f"a={a}, w={w}": [5.0, 7.0, 9.0] for a in (1, 2) for w in "uv"},
    )


def test_checkpoints_are_lines_or_the_axis() -> None:
    rows = [row(0), row(10)]
    assert drawn(compared({"steps": 5}, {"steps": 9}, rows=rows)) == (
        "steps",
        {"0 iterations": [5, 9], "10 iterations": [5, 9]},
    )
    assert drawn(compared({"seed": 0}, {"seed": 1}, rows=rows)) == (
        "iteration",
        {"seed=0": [0, 10], "seed=1": [0, 10]},
    )


def test_shares_are_numbers_and_words_are_places() -> None:
    shares = compared({"budget.macs": "50%"}, {"budget.macs": "35%"})
    assert drawn(shares) == ("budget.macs", {"": [0.35, 0.5]})
    words = compared({"objective": "squared"}, {"objective": "bce"})
    figure = accuracy_and_loss(words)
    assert figure is not None
    assert drawn(words) == ("run", {"": [0, 1]})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "objective=squared", "objective=bce",
    ]  # fmt: skip


def test_sizes_of_one_checkpoint_are_told_apart() -> None:
    found = compared({}, rows=[row(macs=90), {**row(macs=30), "name": "y"}])
    assert [r["result"] for r in found.table] == ["x", "y"]
    assert drawn(found) == ("multiply-adds", {"": [30, 90]})


def test_runs_that_nothing_tells_apart_have_a_line_each() -> None:
    both = [row(0), row(10)]
    assert drawn(compared({}, {}, rows=both))[1] == {"0": [0, 10], "1": [0, 10]}


def test_what_is_not_measured_is_not_drawn() -> None:
    assert accuracy_and_loss(compared({}, rows=[])) is None
    assert accuracy_and_loss(compared({}, job="benchmark", rows=[{"seconds": 1.0}])) is None
    partly = compared({"steps": 1}, {"steps": 2}, rows=[row(0, None), row(5, 0.5)])
    assert drawn(partly)[1] == {"5 iterations": [1, 2]}


def test_a_training_is_one_row() -> None:
    found = compared({"seed": 0}, {"seed": 1}, job="pretrain", rows=[row(0), row(10, 0.75)])
    assert [r["iteration"] for r in found.rows] == [10, 10]
    assert found.table[0] == {
        "run": "0",
        "seed": 0,
        "iteration": 10,
        "loss": 0.25,
        "accuracy": 0.75,
    }
    assert found.words[0]["accuracy"] == "75.00 %"
    assert found.summary[1].startswith("The best accuracy is 75.00 %, of run 0 (seed=0, iteration")


def test_rows_of_a_benchmark_are_shown_as_they_are() -> None:
    seconds = {"median": 1.5, "minimum": 1.0, "maximum": 2.0}
    rows = [{"method": "panel", "seconds": seconds, "picks_sha256": "a" * 64}]
    found = compared({"preset": "smoke"}, job="benchmark", rows=rows)
    assert found.table == [
        {
            "preset": "smoke", "run": "0", "method": "panel", "seconds": "1.5 (1 to 2)",
            "picks_sha256": "a" * 12,
        }
    ]  # fmt: skip


def test_keys_that_differ_are_found_once() -> None:
    one = {"seed": 0, "data.seed": 0, "steps": 5, "out": "a", "same": 1}
    two = {"seed": 1, "data.seed": 1, "steps": 6, "out": "b", "same": 1, "newer": None}
    assert differing([one, two], ["out"]) == ["seed", "steps"]
    assert differing([one, {**two, "newer": 3}], []) == ["seed", "steps", "out", "newer"]
    assert differing([one], []) == []


def test_unfinished_runs_are_told() -> None:
    report = {"job": "prune", "status": "stopped", "results": []}
    found = Comparison([ComparedRun("a", None, {}, report)])
    assert found.summary == ["1 run of gfs prune.", "Run a has not finished: stopped."]


@pytest.mark.parametrize("name", ["](javascript:x)", "<script>x</script>", "a b/(c)", '"><b>'])
def test_names_make_no_links_of_their_own(name: str, tmp_path: Path) -> None:
    report = {"job": "prune", "status": "finished", "results": [row()]}
    write_comparison(tmp_path, Comparison([ComparedRun(name, name, {name: name}, report)]))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<b>" not in html
    assert "<script" not in markdown
    assert "](javascript:" not in markdown
    assert html.count("href=") == 1
