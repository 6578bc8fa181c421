"""``gfs benchmark suite=appendix_d``: rows, picks, baselines, forecasts, refused keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gfs_dist.bench import appendix_d, exchange_cost
from gfs_dist.bench.block_searches import BlockSearches
from gfs_dist.bench.blocks import BlockProblem, BlockSizes, find_blocks
from gfs_dist.bench.model.timing_model import Exchange
from gfs_dist.bench.search_time import check_picks
from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.errors import ConfigError, PicksDifferError
from gfs_dist.jobs import benchmark
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.workflows.reporter import Reporter
from tests.jobs.deep_runs import write_factory

TINY = [
    "suite=appendix_d", "model=custom", "model.factory=tiny_digits:make", "image_size=8",
    "images=20", "repeats=1",
]  # fmt: skip
EXACT = [
    "block", "objective", "workers", "runtime", "device", "seconds", "setup_s", "steps_s",
    "exchange_s", "wait_s", "peak_memory_bytes", "picks_sha256", "speedup", "efficiency",
]  # fmt: skip


def no_exchanges(patch: pytest.MonkeyPatch) -> None:
    """No workers to start: exchanges that cost nothing."""
    patch.setattr(appendix_d, "measure_exchanges", lambda *_: Exchange(0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All objectives on all blocks of a tiny network, one and two workers, and three alone."""
    home = tmp_path_factory.mktemp("appendix_d")
    write_factory(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange_cost, "GROUPS", (2,))
        patch.setattr(exchange_cost, "ROUNDS", 10)
        patch.chdir(home)
        assert main(["benchmark", *TINY, "steps=3", "workers=[1,2,3]", "out=run"]) == 0
    return home / "run"


def report(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "report.json").read_text()))


def rows_of(run: Path, measured: str) -> list[dict[str, Any]]:
    return [row for row in report(run)["results"] if row["measured"] == measured]


def test_every_block_and_objective_is_measured_every_way(run: Path) -> None:
    content = report(run)
    assert (content["status"], content["suite"]) == ("finished", "appendix_d")
    keys = [(row["block"], row["objective"]) for row in content["results"]]
    objectives = ("network_loss", "layer_output", "least_squares")
    assert list(dict.fromkeys(keys)) == [(b, o) for b in ("0", "3") for o in objectives]
    for block, objective in dict.fromkeys(keys):
        rows = [
            (row["measured"], row["workers"])
            for row in content["results"]
            if (row["block"], row["objective"]) == (block, objective)
        ]
        assert ("best single process", 1) in rows
        assert {n for kind, n in rows if kind == "critical path"} == {1, 2, 3}
        assert ("whole", 1) in rows


def test_rows_have_the_keys_of_the_suite(run: Path) -> None:
    for row in report(run)["results"]:
        assert set(EXACT) <= {*row, *(() if "setup_s" in row else EXACT)}
        seconds = row["seconds"]
        assert set(seconds) == {"min", "median", "max"}
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        if "setup_s" in row:
            whole = row["setup_s"] + row["steps_s"] + row["exchange_s"]
            assert whole == pytest.approx(seconds["median"])
            assert row["peak_memory_bytes"] > 0
            assert row["picks"] == 3
    for row in rows_of(run, "critical path"):
        (one,) = (
            other
            for other in rows_of(run, "critical path")
            if (other["block"], other["objective"]) == (row["block"], row["objective"])
            and other["workers"] == 1
        )
        ratio = one["seconds"]["median"] / row["seconds"]["median"]
        assert row["speedup"] == pytest.approx(ratio)
        assert row["efficiency"] == pytest.approx(ratio / row["workers"])


def test_all_runs_of_a_block_and_objective_pick_the_same(run: Path) -> None:
    hashes: dict[tuple[str, str], set[str]] = {}
    for row in report(run)["results"]:
        if "picks_sha256" in row:
            hashes.setdefault((row["block"], row["objective"]), set()).add(row["picks_sha256"])
    assert len(hashes) == 6
    assert all(len(found) == 1 for found in hashes.values())


def test_full_forwards_stand_beside_network_loss(run: Path) -> None:
    rows = [row for row in report(run)["results"] if row["measured"].startswith("full forwards")]
    assert [row["objective"] for row in rows] == ["network_loss"] * 2
    assert "of 21 timed, scaled" in rows[0]["measured"]  # 8 + 7 + 6 candidates


def test_forecast_misfit_and_splits_are_told(run: Path) -> None:
    tables = report(run)["tables"]
    forecast = tables["forecast"]
    assert sorted({row["workers"] for row in forecast}) == [2**i for i in range(3, 11)]
    for row in forecast:
        assert row["low_s"] <= row["seconds"] <= row["high_s"]
    against = {row["against"] for row in tables["misfit"]}
    assert {"critical path", "whole", "critical path, held out"} <= against
    for row in tables["splits"]:
        costs = {key: value for key, value in row.items() if key.endswith("_s")}
        assert costs[f"{row['cheapest']}_s"] == min(costs.values())
        assert f"{row['gfs prune']}_s" in costs
        assert ("samples_s" in costs) == (row["objective"] == "network_loss")
    phases = {(row["objective"], row["phase"]) for row in tables["phases"] if row["workers"] == 1}
    assert {phase for objective, phase in phases if objective == "network_loss"} == {
        "set-up", "steps",
    }  # fmt: skip
    assert ("least_squares", "moments") in phases
    for row in tables["phases"]:
        assert row["floor_s"] > 0
        assert row["over_floor"] == pytest.approx(row["measured_s"] / row["floor_s"])
    assert {row["workers"] for row in tables["exchanges"]} == {2}
    assert any("worst misfit" in note for note in report(run)["notes"])


def test_layers_alike_are_searched_side_by_side(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(n, 6, 3, padding=1), nn.ReLU()) for n in (3, 6, 6)),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
    ).eval()
    x, labels = torch.randn(6, 3, 4, 4, generator=generator), torch.arange(6) % 5
    blocks = find_blocks(network, x, labels)
    assert [len(block.alike) for block in blocks] == [3, 3, 3]
    sizes = BlockSizes((1, 2), 1, 4, 6, 6, 3, None)
    problem = BlockProblem(network, x, labels, (blocks[0],), sizes, 0)
    workspace = Workspace.create(tmp_path / "workspace", network, [(x, labels)])
    searches = BlockSearches(problem, workspace)
    with open_runtime(RuntimeSpec("local", 2, "cpu", 1)) as runtime:
        row = searches.side_by_side(blocks[0], runtime, 1)
    assert row is not None
    assert row["layers"] == "0.0, 1.0"
    ratio = row["all_ranks_s"] / row["side_by_side_s"]
    assert row["side_by_side_over_split"] == pytest.approx(ratio)
    with open_runtime(RuntimeSpec("none", 1, "cpu")) as alone:
        assert searches.side_by_side(blocks[0], alone, 1) is None


def test_plots_and_pages_are_written(run: Path) -> None:
    names = {file.name for file in (run / "plots").iterdir()}
    assert names == {
        "blocks_network_loss.png", "blocks_layer_output.png", "blocks_least_squares.png",
    }  # fmt: skip
    page = (run / "report.md").read_text()
    assert "critical path" in page
    for heading in ("## Forecast", "## Misfit", "## Splits", "## Exchanges", "## Phases"):
        assert heading in page


def test_dry_run_tells_the_plan_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_factory(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *TINY, "batch=5", "out=run", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "blocks: 0, 8 at 8x8; 3, 6 at 4x4" in told
    assert "scores 8 candidates a step on 5 images" in told
    assert "1, 2, 4 workers" in told
    assert not (tmp_path / "run").exists()


def test_picks_that_differ_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_factory(tmp_path)
    monkeypatch.chdir(tmp_path)
    no_exchanges(monkeypatch)
    search, searches = BlockSearches._search, []

    def other_picks(self: Any, *arguments: Any) -> Any:
        path, seconds = search(self, *arguments)
        searches.append(path)
        if len(searches) == 2:  # the first warms up
            path = path.prefix(len(path))
            path.picks[-1] = (path.picks[-1] + 1) % path.num_candidates
        return path, seconds

    monkeypatch.setattr(BlockSearches, "_search", other_picks)
    words = ["objectives=[layer_output]", "layers=['3']", "runtime=none", "workers=[1]", "steps=2"]
    assert main(["benchmark", *TINY, *words, "out=run"]) == 1
    assert "pick" in capsys.readouterr().err
    assert report(tmp_path / "run")["status"] == "failed"


def test_losses_are_means_over_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate by a full forward pass of as many images, which must have the same loss."""
    write_factory(tmp_path)
    monkeypatch.chdir(tmp_path)
    no_exchanges(monkeypatch)
    hashes = set()
    for batch in (1, 3):
        words = [f"batch={batch}", "objectives=[network_loss]", "workers=[1]", "steps=2"]
        assert main(["benchmark", *TINY, *words, "runtime=none", f"out={batch}"]) == 0
        hashes |= {row.get("picks_sha256") for row in report(tmp_path / str(batch))["results"]}
    assert len(hashes - {None}) > 2  # two blocks, and other images pick others in one at least


def test_rows_with_other_picks_are_refused() -> None:
    row = {"workers": 1, "measured": "whole"}
    rows: list[Any] = [
        {**row, "picks_sha256": "1" * 64},
        {**row, "workers": 2, "picks_sha256": "2" * 64},
    ]
    with pytest.raises(PicksDifferError, match=r"a, o: 2 workers \(whole\) pick 222222222222, 1"):
        check_picks("a, o", rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["suite=select", "workers=[2]"], "workers: goes with suite=appendix_d, scaling, found"),
        (["suite=scaling", "images=4"], "images: goes with suite=appendix_d, found suite=scaling"),
        (["suite=appendix_d", "batch=0"], "batch: found 0, accepted a whole number, 1 or more"),
        (["suite=guard", "preset=cluster"], "preset: found cluster, accepted smoke, paper with"),
        (["suite=scaling", "preset=cluster", "runtime=local"], "runtime: found local, accepted r"),
        (["suite=scaling", "model=resnet18"], "model: found resnet18, accepted with suite=appen"),
        (["suite=appendix_d", "model=two_layer"], "model: found two_layer, accepted the name"),
        (["suite=appendix_d", "workers=[0]"], r"workers: found \[0\], accepted whole numbers in"),
        (["suite=appendix_d", "workers=[]"], r"workers: found \[\], accepted whole numbers in"),
        (["suite=appendix_d", "workers=2"], "workers: found 2, accepted whole numbers in brack"),
        (["suite=appendix_d", "objectives=[fisher]"], r"objectives: found \['fisher'\], accepted"),
        (["suite=select", "runtime=none"], "runtime: found none, accepted local with suite=select"),
        (["suite=guard", "threads=2"], "threads: found 2, accepted null"),
        (["suite=guard", "device=cuda"], "device: found cuda, accepted auto, cpu with"),
        (["suite=guard", "margin=1"], r"margin: found 1(\.0)?, accepted a number, above 1"),
        (["suite=fast"], "suite: found 'fast', accepted select, appendix_d, scaling, guard"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("benchmark", words)


def test_a_cluster_is_one_of_ray() -> None:
    assert compose("benchmark", ["suite=scaling", "preset=cluster"]).runtime.kind == "ray"
    assert compose("benchmark", ["suite=scaling"]).runtime.kind == "local"


def test_unknown_layers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_factory(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = compose("benchmark", [*TINY, "layers=[conv9]", f"out={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match="layers: found conv9, accepted 0, 3"):
        benchmark.run(config, Reporter())
    config = compose("benchmark", [*TINY, "image_size=5", f"out={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match="image_size: custom fails on"):
        benchmark.run(config, Reporter())
