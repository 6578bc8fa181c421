"""``suite=select``: the exact methods against a naive loop, and one search on 1 and 2 ranks.

Both sides of every ratio are measured in this run, on the same data, and must pick the same. A
cell runs in a process of its own, after the others, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from gfs_dist.bench.model.timing_model import spread
from gfs_dist.bench.scaling_suite import search_at_once
from gfs_dist.bench.search_time import SearchTime
from gfs_dist.bench.suite import Row, SuiteReport
from gfs_dist.bench.two_layer_cell import Cell, CellRow
from gfs_dist.config import commands as schema
from gfs_dist.errors import PicksDifferError, RunError
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.runtime.backends.local import module_call
from gfs_dist.runtime.resources import usable_cores
from gfs_dist.selection.path import GreedyPath

METHODS = {
    "squared": ("naive", "exhaustive", "lazy", "streaming", "omp_gram"),
    "bce": ("naive", "exhaustive", "screened"),
}
SCALED_ABOVE = 1000
SCALED_PICKS = 10
ONCE_ABOVE = 5000
PARTS = ("setup_s", "compute_s", "exchange_s", "wait_s")
METHOD_TITLES = {
    "neurons": "neurons", "objective": "loss", "method": "method", "setup_s": "set-up",
    "steps_s": "steps", "total_s": "total", "speedup": "times faster", "over_best": "over best",
    "peak_memory_bytes": "MiB", "first_picks_sha256": "first picks",
}  # fmt: skip
RANK_TITLES = {
    "method": "method", "workers": "ranks", "setup_s": "set-up", "compute_s": "compute",
    "exchange_s": "exchange", "wait_s": "wait", "total_s": "total", "speedup": "speed-up",
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much is measured: samples, sizes, picks, searches per fast method, size of scaling."""

    samples: int
    neurons: tuple[int, ...]
    picks: int
    repeats: int
    scaling_neurons: int


PRESETS = {
    "smoke": Sizes(2_000, (200, 1_500), 40, 3, 1_500),
    "paper": Sizes(10_000, (1_000, 5_000, 20_000), 200, 3, 5_000),
}


class SelectSuite:
    """The measurements of one configuration."""

    def __init__(self, config: schema.Benchmark) -> None:
        self.sizes, self.seed = PRESETS[config.preset], config.seed
        self.threads = config.threads or usable_cores()
        self.cells = list(self._cells())

    def plan(self) -> list[str]:
        sizes = self.sizes
        return [
            f"{sizes.samples:,} samples x {', '.join(f'{n:,}' for n in sizes.neurons)} neurons x "
            f"{sizes.picks} picks, float64, {self.threads} threads; {len(self.cells)} cells, each "
            "in a process of its own",
            f"medians of {sizes.repeats} searches after one that is not timed; the exhaustive "
            f"search runs once, above {SCALED_ABOVE:,} neurons for {SCALED_PICKS} picks, scaled, "
            f"as the naive one at all sizes; above {ONCE_ABOVE:,} neurons omp_gram runs once too",
            "naive is one line of torch a pick, which evaluates all candidates from scratch; times "
            "faster: than naive; over best: total over the least of the same problem",
            "peak memory is what a search needs above the contributions themselves",
            "omp_gram is scikit-learn's orthogonal_mp_gram on the same moments, as many picks: "
            "another rule (refitted weights, no repeats), so only its time compares",
            "scaling: one search on 1 and on 2 ranks of one thread each, worker processes",
        ]

    def measure(self, report: SuiteReport) -> None:
        """All methods at all sizes, then ranks."""
        reporter, rows = report.reporter, list[CellRow]()
        reporter.phase("select", len(self.cells))
        for cell in self.cells:
            row = measure_apart(cell)
            rows.append(row)
            report.rows.append(row)
            compare(row, rows)
            reporter.note(
                f"{cell.samples:,} x {cell.neurons:,} {cell.objective} {cell.method}: "
                f"{row['total_s']['median']:.3f} s, {row['speedup']:.0f} times"
            )
            reporter.step(len(rows))
        for row in rows:
            del row["picks"]
            row["over_best"] = row["total_s"]["median"] / min(
                other["total_s"]["median"] for other in rows if same_problem(row, other)
            )
        by_ranks = self._ranks(report)
        report.rows += by_ranks
        report.show("methods: seconds, median", rows, METHOD_TITLES)
        report.show("scaling: seconds, median", by_ranks, RANK_TITLES)

    def _cells(self) -> Iterator[Cell]:
        sizes = self.sizes
        for neurons in sizes.neurons:
            for objective, methods in METHODS.items():
                for method in methods:
                    naive, slow = method == "naive", method in ("naive", "exhaustive")
                    once = slow or (method == "omp_gram" and neurons > ONCE_ABOVE)
                    scaled = naive or (slow and neurons > SCALED_ABOVE)
                    yield Cell(
                        samples=sizes.samples,
                        neurons=neurons,
                        picks=sizes.picks,
                        timed_picks=min(SCALED_PICKS, sizes.picks) if scaled else sizes.picks,
                        objective=objective,
                        method=method,
                        repeats=1 if once else sizes.repeats,
                        threads=self.threads,
                        seed=self.seed,
                    )

    def _ranks(self, report: SuiteReport) -> list[Row]:
        """One search by 1 and by 2 ranks, a thread each: strong scaling.

        Raises:
            PicksDifferError: they pick differently.
        """
        sizes, rows = self.sizes, list[Row]()
        for method in ("lazy", "streaming"):
            cell = Cell.of_ranks(
                sizes.samples, sizes.scaling_neurons, sizes.picks, self.seed, method
            )
            one: list[SearchTime] = []
            for workers in (1, 2):
                report.reporter.phase(f"scaling {method}, {workers} ranks")
                with open_runtime(RuntimeSpec("local", workers, "cpu", threads=1)) as runtime:
                    times = search_at_once(cell, runtime, sizes.repeats)
                one = one or times
                if times[0].path.picks != one[0].path.picks:
                    raise PicksDifferError(
                        f"benchmark: {method} picks differ between 1 and 2 ranks"
                    )
                rows.append(_ranks_row(cell, workers, times, one))
        return rows


def measure_apart(cell: Cell) -> CellRow:
    """Measure a cell in a process of its own.

    Raises:
        RunError: it failed; says the last line of its standard error.
    """
    call = module_call("gfs_dist.bench.two_layer_cell", json.dumps(asdict(cell)))
    done = subprocess.run(**call, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RunError(f"benchmark: {cell.method} on {cell.neurons} neurons failed: {last}")
    found: CellRow = json.loads(done.stdout.splitlines()[-1])
    return found


def same_problem(row: CellRow, other: CellRow) -> bool:
    """Whether both rows are about one problem."""
    return all(row[key] == other[key] for key in ("neurons", "objective"))


def compare(row: CellRow, rows: list[CellRow]) -> None:
    """With the naive search of the same problem: time; with it and the exhaustive one: picks.

    Raises:
        PicksDifferError: they differ.
    """
    others = [other for other in rows if same_problem(row, other)]
    row["speedup"] = others[0]["total_s"]["median"] / row["total_s"]["median"]
    row["picks_sha256"] = row["first_picks_sha256"] = None
    if row["picks"] is None:
        return
    row["picks_sha256"] = GreedyPath(row["neurons"], row["picks"]).sha256
    row["first_picks"] = others[0]["timed_picks"]
    first = GreedyPath(row["neurons"], row["picks"][: row["first_picks"]])
    row["first_picks_sha256"] = first.sha256
    for other in others[:2]:
        made = min(row["timed_picks"], other["timed_picks"])
        if row["picks"][:made] != (other["picks"] or [])[:made]:
            raise PicksDifferError(
                f"benchmark: {row['method']} on {row['neurons']} neurons ({row['objective']}) "
                f"picks {row['picks'][:5]}..., not what the {other['method']} search picks"
            )


def _ranks_row(
    cell: Cell, workers: int, times: Sequence[SearchTime], one: Sequence[SearchTime]
) -> Row:
    """``one``: the same search by one rank."""
    seconds = spread([time.seconds for time in times])
    speedup = statistics.median(time.seconds for time in one) / seconds["median"]
    return {
        "suite": "scaling",
        "samples": cell.samples,
        "neurons": cell.neurons,
        "picks": len(times[0].path),
        "objective": cell.objective,
        "method": cell.method,
        "workers": workers,
        "threads": cell.threads,
        **{part: spread([getattr(time, part) for time in times]) for part in PARTS},
        "total_s": seconds,
        "peak_memory_bytes": max(time.peak_bytes for time in times),
        "picks_sha256": times[0].path.sha256,
        "speedup": speedup,
        "efficiency": speedup / workers,
    }
