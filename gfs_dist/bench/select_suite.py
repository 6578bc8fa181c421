"""``suite=select``: the exact methods against the exhaustive one, and one search on 1 and 2 ranks.

Both sides of every ratio are measured in this run, on the same data, and must pick the same. A
cell runs in a process of its own, after the others, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gfs_dist.bench.cell_problem import CellProblem
from gfs_dist.bench.suite import Bench
from gfs_dist.bench.two_layer_cell import Cell
from gfs_dist.config import commands as schema
from gfs_dist.errors import PicksDifferError, RunError
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.runtime.backends.server_process import module_call
from gfs_dist.runtime.resources import usable_cores
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from gfs_dist.workflows.reporter import Reporter

METHODS = {
    "squared": ("exhaustive", "panel", "lazy", "streaming", "omp_gram"),
    "bce": ("exhaustive", "screened"),
}
SCALED_ABOVE = 1000
SCALED_PICKS = 10
ALL_PAIRS = ("panel", "omp_gram")
ONCE_ABOVE = 5000


@dataclass(frozen=True)
class Preset:
    """How much is measured: samples, sizes, picks, searches per fast method, size of scaling."""

    samples: int
    neurons: tuple[int, ...]
    picks: int
    repeats: int
    scaling_neurons: int


PRESETS = {
    "smoke": Preset(2_000, (200, 1_500), 40, 3, 1_500),
    "paper": Preset(10_000, (1_000, 5_000, 20_000), 200, 3, 5_000),
}


def run(config: schema.Benchmark, reporter: Reporter) -> dict[str, Any]:
    """Measure, and write the run folder; returns what ``report.json`` holds."""
    preset, threads = PRESETS[config.preset], config.threads or usable_cores()
    cells = list(_cells(preset, threads, config.seed))
    words = _words(preset, cells, threads)
    reporter.plan(words)
    with Bench.opened(config, reporter, words) as bench:
        reporter.phase("select", len(cells))
        rows = bench.rows
        for cell in cells:
            rows.append(_measure(cell))
            _add_ratio(rows)
            reporter.note(_cell_words(rows[-1]))
            reporter.step(len(rows))
        rows += _scaling(preset, config.seed, reporter)
    _tell(rows, reporter)
    return bench.content


def _cells(preset: Preset, threads: int, seed: int) -> Iterator[Cell]:
    for neurons in preset.neurons:
        for objective, methods in METHODS.items():
            for method in methods:
                slow = method == "exhaustive"
                once = slow or (method in ALL_PAIRS and neurons > ONCE_ABOVE)
                scaled = slow and neurons > SCALED_ABOVE
                yield Cell(
                    preset.samples,
                    neurons,
                    preset.picks,
                    min(SCALED_PICKS, preset.picks) if scaled else preset.picks,
                    objective,
                    method,
                    1 if once else preset.repeats,
                    threads,
                    seed,
                )


def _measure(cell: Cell) -> dict[str, Any]:
    call = module_call("gfs_dist.bench.two_layer_cell", json.dumps(asdict(cell)))
    done = subprocess.run(**call, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RunError(f"benchmark: {cell.method} on {cell.neurons} neurons failed: {last}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"suite": "select", **row}


def _add_ratio(rows: list[dict[str, Any]]) -> None:
    """Compare the last row with the exhaustive one of the same problem: time, and picks."""
    row = rows[-1]
    key = ("samples", "neurons", "objective", "threads")
    base = next(
        other
        for other in rows
        if other["method"] == "exhaustive" and all(other[k] == row[k] for k in key)
    )
    row["speedup"] = base["total_s"]["median"] / row["total_s"]["median"]
    picks, made = row.pop("picks"), base["timed_picks"]
    row["picks_sha256"] = row["first_picks_sha256"] = None
    if picks is None:
        return
    row["picks_sha256"] = GreedyPath(row["neurons"], picks).sha256
    row["first_picks"], row["first_picks_sha256"] = (
        made,
        GreedyPath(row["neurons"], picks[:made]).sha256,
    )
    if row["first_picks_sha256"] != base["first_picks_sha256"]:
        raise PicksDifferError(
            f"benchmark: {row['method']} on {row['neurons']} neurons ({row['objective']}) picks "
            f"{picks[:5]}..., not what the exhaustive search picks"
        )


def _scaling(preset: Preset, seed: int, reporter: Reporter) -> list[dict[str, Any]]:
    """One search by 1 and by 2 ranks, a thread each: strong scaling."""
    rows: list[dict[str, Any]] = []
    for method in ("lazy", "streaming"):
        cell = Cell(
            preset.samples, preset.scaling_neurons, preset.picks, preset.picks, "squared", method,
            1, 1, seed,
        )  # fmt: skip
        for workers in (1, 2):
            reporter.phase(f"scaling {method}, {workers} ranks", preset.repeats)
            spec = RuntimeSpec(kind="local", workers=workers, threads=1, device="cpu")
            with open_runtime(spec) as runtime:
                found = []
                for repeat in range(preset.repeats + 1):
                    # Another object, so that ranks set up again; the data are there.
                    found.append(runtime.search(CellProblem(cell), Stop(preset.picks)))
                    reporter.step(repeat)
            rows.append(_scaling_row(cell, workers, found[1:]))
            reporter.note(
                f"scaling {method}, {workers} ranks: "
                f"{rows[-1]['total_s']['median']:.3f} s, wait {rows[-1]['wait_s']['median']:.3f} s"
            )
        alone, both = rows[-2:]
        if alone["picks_sha256"] != both["picks_sha256"]:
            raise PicksDifferError(f"benchmark: {method} picks differ between 1 and 2 ranks")
        for row in (alone, both):
            row["speedup"] = alone["total_s"]["median"] / row["total_s"]["median"]
            row["efficiency"] = row["speedup"] / row["workers"]
    return rows


def _scaling_row(cell: Cell, workers: int, found: list[Any]) -> dict[str, Any]:
    def spread(value: Callable[[dict[str, Any]], float]) -> dict[str, float]:
        values = sorted(value(search.timing) for search in found)
        return {"median": values[len(values) // 2], "minimum": values[0], "maximum": values[-1]}

    def slowest(key: str) -> Callable[[dict[str, Any]], float]:
        return lambda timing: max(rank[key] for rank in timing["ranks"])

    return {
        "suite": "scaling",
        "samples": cell.samples,
        "neurons": cell.neurons,
        "picks": len(found[0].path),
        "objective": cell.objective,
        "method": cell.method,
        "workers": workers,
        "threads": cell.threads,
        "setup_s": spread(slowest("setup_s")),
        "compute_s": spread(slowest("compute_s")),
        "exchange_s": spread(lambda timing: timing["exchange_s"]),
        "wait_s": spread(lambda timing: timing["wait_s"]),
        "total_s": spread(
            lambda timing: max(
                rank["setup_s"] + rank["compute_s"] + rank["exchange_s"] for rank in timing["ranks"]
            )
        ),
        "peak_memory_bytes": max(
            rank["peak_rss_bytes"] for search in found for rank in search.timing["ranks"]
        ),
        "picks_sha256": found[0].path.sha256,
    }


def _words(preset: Preset, cells: list[Cell], threads: int) -> list[str]:
    return [
        f"{preset.samples:,} samples x {', '.join(f'{n:,}' for n in preset.neurons)} neurons x "
        f"{preset.picks} picks, float64, {threads} threads; {len(cells)} cells, each in a process "
        "of its own",
        f"medians of {preset.repeats} searches after one that is not timed; the exhaustive search "
        f"runs once, above {SCALED_ABOVE:,} neurons for {SCALED_PICKS} picks, scaled; above "
        f"{ONCE_ABOVE:,} neurons {' and '.join(ALL_PAIRS)} run once too",
        "peak memory is what a search needs above the contributions themselves",
        "omp_gram is scikit-learn's orthogonal_mp_gram on the same moments, as many picks: another "
        "rule (refitted weights, no repeats), so only its time compares",
        "scaling: one search on 1 and on 2 ranks of one thread each, worker processes",
    ]


def _cell_words(row: dict[str, Any]) -> str:
    return (
        f"{row['samples']:,} x {row['neurons']:,} {row['objective']} {row['method']}: "
        f"{row['total_s']['median']:.3f} s, {row['speedup']:.0f} times"
    )


def _tell(rows: list[dict[str, Any]], reporter: Reporter) -> None:
    reporter.table(
        "methods: seconds, median",
        [
            "neurons",
            "loss",
            "method",
            "set-up",
            "steps",
            "total",
            "times faster",
            "MiB",
            "first picks",
        ],
        [
            [
                row["neurons"],
                row["objective"],
                row["method"],
                row["setup_s"]["median"],
                row["steps_s"]["median"],
                row["total_s"]["median"],
                row["speedup"],
                row["peak_memory_bytes"] / 2**20,
                (row["first_picks_sha256"] or "-")[:8],
            ]
            for row in rows
            if row["suite"] == "select"
        ],
    )
    reporter.table(
        "scaling: seconds, median",
        ["method", "ranks", "set-up", "compute", "exchange", "wait", "total", "speed-up"],
        [
            [
                row["method"],
                row["workers"],
                row["setup_s"]["median"],
                row["compute_s"]["median"],
                row["exchange_s"]["median"],
                row["wait_s"]["median"],
                row["total_s"]["median"],
                row["speedup"],
            ]
            for row in rows
            if row["suite"] == "scaling"
        ],
    )
