"""``gfs benchmark suite=scaling``: rows, floors, exchanges, the loop."""

from __future__ import annotations

import json

import pytest

from gfs_dist.bench import exchange_cost
from gfs_dist.bench.exchange_cost import exchange_in_loop, loop_without_exchanges
from gfs_dist.bench.scaling_suite import PRESETS, ScalingSizes
from gfs_dist.bench.search_time import Placement
from gfs_dist.bench.two_layer_cell import Cell
from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.runtime import RuntimeSpec, open_runtime

TINY = ["suite=scaling", "neurons=[16,64]", "samples=24", "steps=6", "repeats=1"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    run = tmp_path_factory.mktemp("scaling") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange_cost, "GROUPS", (2,))
        patch.setattr(exchange_cost, "ROUNDS", 10)
        assert main(["benchmark", *TINY, "runtime=none", "workers=[3]", f"out={run}"]) == 0
    assert (run / "report.md").stat().st_size > 0
    return json.loads((run / "report.json").read_text())


def rows_of(report: dict, suite: str) -> list[dict]:
    return [row for row in report["results"] if row["suite"] == suite]


def test_one_process_stands_beside_its_floors(report: dict) -> None:
    rows = rows_of(report, "single")
    assert [row["neurons"] for row in rows] == [16, 64]
    for row in rows:
        floor = max(row["bytes_floor_s"], row["macs_floor_s"]) + row["loop_floor_s"]
        assert row["over_floor"] == pytest.approx(row["steps_s"]["median"] / floor)
        assert row["picks_per_s"] == pytest.approx(6 / row["steps_s"]["median"])
        assert row["distinct"] <= row["picks"] == 6


def test_strong_and_weak_scaling_split_their_time(report: dict) -> None:
    strong, weak = rows_of(report, "strong"), rows_of(report, "weak")
    assert [(r["neurons"], r["workers"]) for r in strong] == [(16, 1), (16, 3), (64, 1), (64, 3)]
    assert [(r["neurons"], r["workers"]) for r in weak] == [(64, 1), (192, 3)]
    for row in [*strong, *weak]:
        assert row["measured"] == "critical path"
        parts = row["setup_s"] + row["compute_s"] + row["exchange_s"]
        assert parts == pytest.approx(row["seconds"]["median"])
        assert (row["exchange_s"] > 0) == (row["workers"] > 1)
    for one, three in ((strong[0], strong[1]), (strong[2], strong[3])):
        assert one["picks_sha256"] == three["picks_sha256"]
        ratio = one["seconds"]["median"] / three["seconds"]["median"]
        assert three["efficiency"] == pytest.approx(ratio / 3)
    assert weak[1]["efficiency"] == pytest.approx(
        weak[0]["seconds"]["median"] / weak[1]["seconds"]["median"]
    )


def test_width_from_which_ranks_pay_is_told(report: dict) -> None:
    (row,) = report["tables"]["widths that pay"]
    assert row["workers"] == 3
    pays = row["pays_from_neurons"]  # nothing where a candidate more costs nothing measurable
    assert pays is None or pays > 0
    assert any("loops not compared" in note for note in report["notes"])


def test_loops_are_compared_with_exchanges_alone_and_with_none() -> None:
    with open_runtime(RuntimeSpec("local", 2, "cpu", 1)) as runtime:
        exchange = exchange_in_loop(runtime, 0, 1)
        loop = loop_without_exchanges(runtime, Cell.of_ranks(32, 64, 5, 0, "streaming"), 1)
    in_loop, bare = exchange.exchange_of_a_step_s, exchange.bare_s
    assert exchange.over_bare == pytest.approx(in_loop["median"] / bare["median"])
    assert 0 < in_loop["median"] <= exchange.with_waiting_s["median"]
    ratio = loop["loop_s"]["median"] / loop["without_exchanges_s"]["median"]
    assert loop["above"] == pytest.approx(ratio - 1)
    assert loop["step_ms"] > 0


def test_keys_stand_for_the_preset() -> None:
    sizes = PRESETS["smoke"].with_keys(compose("benchmark", [*TINY, "workers=[4,2]"]))
    assert sizes == ScalingSizes((1, 2, 4), 1, 24, (16, 64), 6)
    plain = compose("benchmark", ["suite=scaling"])
    assert PRESETS["smoke"].with_keys(plain) == PRESETS["smoke"]


def test_places_are_cores_or_a_cluster() -> None:
    config = compose("benchmark", ["suite=scaling"])
    here = Placement(config.runtime, "cpu", threads=1, room=2, cluster=False)
    assert [here.fits(n) for n in (1, 2, 3)] == [True, True, False]
    assert "`critical path`" in here.words((1, 2, 3))
    there = Placement.of(compose("benchmark", ["suite=scaling", "preset=cluster", "device=cuda"]))
    assert there.fits(1024)
    assert "critical path" not in there.words((1, 8))
