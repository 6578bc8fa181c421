"""``gfs benchmark``: rows, ratios, and the refusal of picks that differ."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gfs_dist.bench import select_suite
from gfs_dist.bench.select_suite import METHODS, Sizes
from gfs_dist.bench.two_layer_cell import Cell, measure
from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.errors import PicksDifferError, RunError
from gfs_dist.jobs import benchmark
from gfs_dist.workflows.reporter import Reporter


@pytest.fixture
def tiny(monkeypatch) -> None:
    """Few neurons, and cells in this process: seven others would start."""
    monkeypatch.setitem(select_suite.PRESETS, "smoke", Sizes(300, (40,), 12, 2, 40))
    monkeypatch.setattr(select_suite, "measure_apart", measure)


def test_a_cell_has_a_process_of_its_own() -> None:
    cell = Cell(50, 12, 3, 3, "squared", "lazy", 1, 1, 0)
    apart, here = select_suite.measure_apart(cell), measure(cell)
    assert apart["picks"] == here["picks"]
    assert apart["peak_memory_bytes"] > 0  # above what that process held before the search
    assert apart.keys() == here.keys()
    with pytest.raises(RunError, match="no_such on 12 neurons failed: .*no_such"):
        select_suite.measure_apart(replace(cell, method="no_such"))


def test_every_method_is_measured_beside_the_naive_one(tiny, tmp_path) -> None:
    assert main(["benchmark", "suite=select", "threads=1", f"out={tmp_path / 'run'}"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = [row for row in report["results"] if row["suite"] == "select"]
    assert [(row["objective"], row["method"]) for row in rows] == [
        (objective, method) for objective, methods in METHODS.items() for method in methods
    ]
    for objective in METHODS:
        picked = {row["picks_sha256"] for row in rows if row["objective"] == objective}
        assert len(picked - {None}) == 2  # the naive search makes fewer
        first = {row["first_picks_sha256"] for row in rows if row["objective"] == objective}
        assert len(first - {None}) == 1
    for row in rows:
        assert row["over_best"] >= 1
        assert row["total_s"]["minimum"] <= row["total_s"]["median"] <= row["total_s"]["maximum"]
        assert row["total_s"]["median"] > 0
    base = rows[0]["total_s"]["median"]
    assert all(
        row["speedup"] == pytest.approx(base / row["total_s"]["median"])
        for row in rows
        if row["objective"] == "squared"
    )
    scaling = [row for row in report["results"] if row["suite"] == "scaling"]
    assert [(row["method"], row["workers"]) for row in scaling] == [
        ("lazy", 1), ("lazy", 2), ("streaming", 1), ("streaming", 2),
    ]  # fmt: skip
    assert len({row["picks_sha256"] for row in scaling}) == 1
    assert (tmp_path / "run" / "report.md").stat().st_size > 0


def test_picks_that_differ_fail_the_benchmark(tiny, tmp_path, monkeypatch) -> None:
    def other_picks(cell):
        row = measure(cell)
        if cell.method == "lazy":
            row["picks"][3] += 1
        return row

    monkeypatch.setattr(select_suite, "measure_apart", other_picks)
    config = compose("benchmark", ["threads=1", f"out={tmp_path / 'run'}"])
    with pytest.raises(PicksDifferError, match="lazy on 40 neurons"):
        benchmark.run(config, Reporter())
