"""``suite=scaling``: what ranks buy the two-layer search, and what their exchanges cost.

Strong scaling shares one problem out, weak scaling gives every rank as much. Beside them stand
one process against its floors, the exchange in the loop against the same reductions by themselves,
and the loop in the workers against the same loop without exchanges.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

from gfs_dist.bench.exchange_cost import (
    exchange_in_loop,
    loop_without_exchanges,
    measure_exchanges,
)
from gfs_dist.bench.floors import single_process_row
from gfs_dist.bench.model.timing_model import Exchange, paying_width, per_candidate_s
from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime
from gfs_dist.bench.search_time import (
    CRITICAL,
    WHOLE,
    Placement,
    SearchTime,
    TimeRow,
    add_speedups,
    check_picks,
    time_row,
)
from gfs_dist.bench.suite import Row, Sizes, SuiteReport
from gfs_dist.bench.two_layer_cell import Cell, CellProblem
from gfs_dist.config import commands as schema
from gfs_dist.runtime import Runtime, open_runtime
from gfs_dist.runtime.resources import usable_cores
from gfs_dist.selection.stop import Stop


@dataclass(frozen=True)
class ScalingSizes(Sizes):
    """How much is measured."""

    samples: int
    neurons: tuple[int, ...]
    steps: int

    def with_keys(self, config: schema.Benchmark) -> ScalingSizes:
        sizes = super().with_keys(config)
        return replace(sizes, neurons=tuple(sorted(set(sizes.neurons))))


PRESETS = {
    "smoke": ScalingSizes((1, 2, 4), 3, 256, (512, 4_096, 65_536), 50),
    "paper": ScalingSizes((1, 2, 4, 8), 3, 2_000, (512, 4_096, 65_536), 200),
    "cluster": ScalingSizes((1, 2, 4, 8), 3, 2_000, (512, 4_096, 65_536), 200),
}


def search_at_once(cell: Cell, runtime: Runtime, repeats: int) -> list[SearchTime]:
    """By all ranks of ``runtime``; each sets up again, the data are there after the first time."""
    return [
        SearchTime.at_once(runtime.search(CellProblem(cell), Stop(cell.picks)))
        for _ in range(1 + repeats)
    ][1:]


class ScalingSuite:
    """The measurements of one configuration."""

    def __init__(self, config: schema.Benchmark) -> None:
        self.config, self.sizes = config, PRESETS[config.preset].with_keys(config)
        self.placement = Placement.of(config)

    def plan(self) -> list[str]:
        sizes = self.sizes
        neurons = ", ".join(f"{n:,}" for n in sizes.neurons)
        return [
            f"two-layer search, lazy columns, float64: {sizes.samples:,} samples x {neurons} "
            f"neurons, {sizes.steps:,} picks; strong scaling of each, weak scaling of "
            f"{self._base:,} neurons a rank",
            self.placement.words(sizes.workers),
            f"medians of {sizes.repeats} after one that is not timed; one process with "
            f"{usable_cores()} threads against its floors, whose rates are measured here too",
            "exchange in the loop: a search whose steps compute next to nothing; loop in the "
            "workers: ranks replayed side by side do the same work without exchanges",
        ]

    def measure(self, report: SuiteReport) -> None:
        exchange = measure_exchanges(self.placement, report)
        self._single_process(report)
        widths = self._strong(report, exchange)
        self._weak(report, exchange)
        self._loops(report)
        if widths:
            report.tables["widths that pay"] += widths
        single = ("neurons", "device", "picks_per_s", "steps_s", "bytes_floor_s", "macs_floor_s",
                  "loop_floor_s", "over_floor")  # fmt: skip
        by_ranks = ("suite", "neurons", "workers", "measured", "seconds", "setup_s", "compute_s",
                    "exchange_s", "wait_s", "speedup", "efficiency")  # fmt: skip
        rows = report.rows
        ones = [row for row in rows if row["suite"] == "single"]
        report.show("one process against its floors", ones, single)
        others = [row for row in rows if "workers" in row]
        report.show("by ranks: seconds, median", others, by_ranks)
        for title in ("widths that pay", "exchange in the loop", "loop in the workers"):
            report.show(title, report.tables.get(title, ()))

    @property
    def _base(self) -> int:
        """Neurons of a rank in weak scaling."""
        return self.sizes.neurons[len(self.sizes.neurons) // 2]

    def _cell(self, neurons: int, method: str = "lazy") -> Cell:
        sizes = self.sizes
        return Cell.of_ranks(sizes.samples, neurons, sizes.steps, self.config.seed, method)

    def _single_process(self, report: SuiteReport) -> None:
        """One process with all threads; on the GPU too, where there is one."""
        devices = dict.fromkeys(("cpu", self.placement.device))
        report.reporter.phase("one process", len(devices) * len(self.sizes.neurons))
        for number, (device, neurons) in enumerate(product(devices, self.sizes.neurons), start=1):
            cell = self._cell(neurons)
            row = single_process_row(cell, device, usable_cores(), self.sizes.repeats)
            self._keep(report, [row])
            report.reporter.step(number)

    def _strong(self, report: SuiteReport, exchange: Exchange) -> list[Row]:
        """The same problem by more ranks; from which width on more ranks take less time."""
        steps: list[tuple[int, float]] = []
        exchanged: list[int] = []
        for neurons in self.sizes.neurons:
            rows, critical, num_bytes = self._search(
                "strong", neurons, self.sizes.workers, exchange, report
            )
            add_speedups(rows)
            self._keep(report, rows)
            steps += [(neurons, one.compute_s / self.sizes.steps) for one in critical.get(1, ())]
            exchanged.append(num_bytes)
        if len(exchanged) < 2 or not steps:
            return []
        candidate_s = per_candidate_s(steps)
        # Two reductions, and what travels of a pick on average.
        shared_bytes = round(max(statistics.median(exchanged) / self.sizes.steps - 16, 0))
        widths: list[Row] = []
        for ranks in self.sizes.workers[1:]:
            step_s = 2 * exchange.seconds(ranks, 8) + exchange.seconds(ranks, shared_bytes)
            widths.append({
                "workers": ranks,
                "step_of_a_candidate_ns": candidate_s * 1e9,
                "exchange_of_a_step_us": step_s * 1e6,
                "pays_from_neurons": paying_width(candidate_s, step_s, ranks),
            })  # fmt: skip
        return widths

    def _weak(self, report: SuiteReport, exchange: Exchange) -> None:
        """As many neurons for every rank."""
        rows: list[TimeRow] = []
        for ranks in self.sizes.workers:
            rows += self._search("weak", self._base * ranks, (ranks,), exchange, report)[0]
        add_speedups(rows)
        for row in rows:  # the problem grows with the ranks, which that does not know
            row["efficiency"] = row["speedup"]
            row["speedup"] *= row["workers"]
        self._keep(report, rows)

    def _search(
        self,
        suite: str,
        neurons: int,
        workers: Sequence[int],
        exchange: Exchange,
        report: SuiteReport,
    ) -> tuple[list[TimeRow], dict[int, list[SearchTime]], int]:
        """One problem, by ranks at once where there is room, and alone where there is one machine.

        Returns:
            rows; critical paths by number of ranks; and the bytes of all exchanges of a search.
        """
        cell, place, rows = self._cell(neurons), self.placement, []
        report.reporter.phase(f"{neurons:,} neurons by {', '.join(map(str, workers))} ranks")
        for ranks in filter(place.fits, workers):
            with open_runtime(place.spec(ranks, place.threads, place.device)) as runtime:
                times = search_at_once(cell, runtime, self.sizes.repeats)
            rows.append(self._row(suite, neurons, ranks, WHOLE, times))
        critical: dict[int, list[SearchTime]] = {}
        exchanged = 0
        if not place.cluster:
            with OneRankAtATime(workers, place.device, place.threads) as runtime:
                for number in range(1 + self.sizes.repeats):
                    runtime.search(CellProblem(cell), Stop(cell.picks))
                    timed = runtime.searches.pop()
                    for ranks in workers if number else ():
                        path = timed.critical_path(ranks, exchange)
                        critical.setdefault(ranks, []).append(path)
                exchanged = sum(timed.record.sizes)
        rows += [self._row(suite, neurons, n, CRITICAL, times) for n, times in critical.items()]
        check_picks(f"{neurons:,} neurons", rows)
        for row in rows:
            report.reporter.note(
                f"{row['workers']} ranks ({row['measured']}): {row['seconds']['median']:.4f} s, "
                f"exchange {row['exchange_s']:.4f} s, wait {row['wait_s']:.4f} s"
            )
        return rows, critical, exchanged

    def _row(
        self, suite: str, neurons: int, workers: int, measured: str, times: Sequence[SearchTime]
    ) -> TimeRow:
        return {
            "suite": suite,
            "neurons": neurons,
            "samples": self.sizes.samples,
            **time_row(workers, measured, self.placement, times),
            "compute_s": statistics.median(one.compute_s for one in times),
        }

    def _loops(self, report: SuiteReport) -> None:
        """The exchange in the loop against one alone, the loop against one without exchanges."""
        if not self.placement.fits(2):
            report.notes.append("two ranks cannot compute at once here: loops not compared")
            return
        report.reporter.phase("the loop in the workers")
        cell, repeats = self._cell(self.sizes.neurons[-1], "streaming"), self.sizes.repeats
        with open_runtime(self.placement.spec(2, self.placement.threads, "cpu")) as runtime:
            exchange = exchange_in_loop(runtime, self.config.seed, repeats)
            loop = loop_without_exchanges(runtime, cell, repeats)
        report.tables["exchange in the loop"] += [asdict(exchange)]
        report.tables["loop in the workers"] += [loop]

    def _keep(self, report: SuiteReport, rows: Sequence[Row]) -> None:
        report.rows += rows
        report.keep()
