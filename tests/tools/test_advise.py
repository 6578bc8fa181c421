"""The record of wrong advice: stops that were early are counted, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfs_dist.theory import Rule
from tools.records import advise

POINTS = [(0, 0.7), (250, 0.95), (500, 0.9501), (1000, 0.95), (2000, 0.99), (4000, 0.9905)]


def rows(name: str) -> list[dict[str, object]]:
    return [
        {"series": name, "iteration": iteration, "loss": 0.1, "dense_loss": 0.1}
        | dict.fromkeys(("accuracy_train", "dense_accuracy_train"), accuracy)
        | dict.fromkeys(("accuracy", "dense_accuracy"), accuracy - 0.01)
        for iteration, accuracy in POINTS
    ]


def test_an_early_stop_is_counted_with_its_regret(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps(rows("a")[::-1]))
    cells = [{"rule": "uniform", "width": 5, "samples": 9, "trial": 0, **row} for row in rows("")]
    (tmp_path / "figure1.json").write_text(json.dumps({"results": cells}))
    series = advise.read_series([tmp_path / "own.json", tmp_path / "figure1.json"])
    assert list(series) == ["a", "rule=uniform width=5 samples=9 trial=0"]
    assert [row["iteration"] for row in series["a"]] == [iteration for iteration, _ in POINTS]
    found = advise.judged([series["a"]], advise.gained_little(0.002))
    assert (found["fired"], found["early"]) == (3, 2)  # every 1,000 it is right
    assert found["worst"] == pytest.approx(4.05)
    assert advise.judged([series["a"]], Rule(threshold=1e-9).fired)["fired"] == 0
