"""``suite=scaling``: what ranks buy the bare two-layer search, and what their exchanges cost.

Strong scaling shares one problem out, weak scaling gives every rank as much. Beside them stand
one process against its floors, the exchange in the loop against the same reductions bare, and the
loop in the workers against the same loop without exchanges.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gfs_dist.bench.exchange_cost import exchange_of, measure_exchanges
from gfs_dist.bench.loop_cost import exchange_row, loop_row
from gfs_dist.bench.model import Exchange, paying_width, per_candidate_s
from gfs_dist.bench.placement import Places
from gfs_dist.bench.suite import Bench, Row, runtime_spec, spread, tell_rows
from gfs_dist.bench.two_layer_search import Split, alone, at_once, cell, one_by_one
from gfs_dist.config import commands as schema
from gfs_dist.errors import PicksDifferError
from gfs_dist.runtime import open_runtime
from gfs_dist.runtime.resources import usable_cores
from gfs_dist.workflows.reporter import Reporter

WHOLE, CRITICAL = "whole", "critical path"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        samples, neurons: of the searches.
        picks: of each.
        workers: numbers of ranks.
        repeats: of every measurement.
    """

    samples: int
    neurons: tuple[int, ...]
    picks: int
    workers: tuple[int, ...]
    repeats: int


PRESETS = {
    "smoke": Sizes(256, (512, 4_096, 65_536), 50, (1, 2, 4), 3),
    "paper": Sizes(2_000, (512, 4_096, 65_536), 200, (1, 2, 4, 8), 3),
    "cluster": Sizes(2_000, (512, 4_096, 65_536), 200, (1, 2, 4, 8), 3),
}


def sizes_of(config: schema.Benchmark) -> Sizes:
    """The preset's, where no key says otherwise; one rank is always measured."""
    found, sizes = config, PRESETS[config.preset]
    return replace(
        sizes,
        samples=found.samples or sizes.samples,
        neurons=tuple(sorted(set(found.neurons or sizes.neurons))),
        picks=found.steps or sizes.picks,
        workers=tuple(sorted({1, *(found.workers or sizes.workers)})),
        repeats=found.repeats or sizes.repeats,
    )


def run(config: schema.Benchmark, reporter: Reporter) -> dict[str, Any]:
    """Measure, and write the run folder; returns what ``report.json`` holds."""
    sizes, places = sizes_of(config), Places.of(config)
    lines = _words(sizes, places, config)
    reporter.plan(lines)
    with Bench.opened(config, reporter, lines) as bench:
        Scaling(config, sizes, places, bench, reporter).run()
    return bench.content


class Scaling:
    """One run of the suite."""

    def __init__(
        self,
        config: schema.Benchmark,
        sizes: Sizes,
        places: Places,
        bench: Bench,
        reporter: Reporter,
    ) -> None:
        self.config, self.sizes, self.places = config, sizes, places
        self.bench, self.reporter = bench, reporter
        self.threads = config.threads or 1
        self.exchange: Exchange

    def run(self) -> None:
        """Everything, in the order of the report."""
        rows = measure_exchanges(self.config, self.reporter)
        self.bench.tables["exchanges"] = rows
        self.exchange = exchange_of(rows)
        self._single()
        widths = self._strong()
        self._weak()
        self._loops()
        if widths:
            self.bench.tables["widths that pay"] = widths
        self._tell()

    def _single(self) -> None:
        """One process with all threads; on the GPU too, where there is one."""
        devices = ["cpu", "cuda"] if self.places.device == "cuda" else ["cpu"]
        self.reporter.phase("one process", len(devices) * len(self.sizes.neurons))
        for device in devices:
            for neurons in self.sizes.neurons:
                row = alone(self._cell(neurons), device, usable_cores(), self.sizes.repeats)
                self._keep("single", [row])
                self.reporter.note(
                    f"{neurons:,} neurons, {device}: {row['picks_per_s']:,.0f} picks a second, "
                    f"{row['over_floor']:.2f} times the floor"
                )

    def _cell(self, neurons: int) -> Any:
        return cell(self.sizes.samples, neurons, self.sizes.picks, self.config.seed)

    def _strong(self) -> list[Row]:
        """The same problem by more ranks; from which width on more ranks take less time."""
        steps: list[tuple[int, float]] = []
        exchanged: dict[int, int] = {}
        for neurons in self.sizes.neurons:
            rows, critical, sizes = self._ranks(neurons, self.sizes.workers)
            _add_speedups(rows)
            self._keep("strong", rows)
            exchanged[neurons] = sum(sizes)
            steps += [(neurons, s.compute_s / self.sizes.picks) for s in critical.get(1, [])]
        if len(self.sizes.neurons) < 2 or not steps:
            return []
        candidate_s = per_candidate_s(steps)
        return [
            {
                "workers": ranks,
                "step_of_a_candidate_ns": candidate_s * 1e9,
                "exchange_of_a_step_us": exchange_s * 1e6,
                "pays_from_neurons": paying_width(candidate_s, exchange_s, ranks),
            }
            for ranks in self.sizes.workers
            if ranks > 1
            for exchange_s in [self._exchange_of_a_step(ranks, exchanged)]
        ]

    def _exchange_of_a_step(self, ranks: int, exchanged: dict[int, int]) -> float:
        """Two reductions, and what travels of picks on average."""
        steps = self.sizes.picks
        travels = statistics.median(exchanged.values()) / steps - 16
        share_s = self.exchange.seconds(ranks, round(max(travels, 0)))
        return 2 * self.exchange.seconds(ranks, 8) + share_s

    def _weak(self) -> None:
        """As many neurons for every rank."""
        base = self.sizes.neurons[len(self.sizes.neurons) // 2]
        rows = []
        for ranks in self.sizes.workers:
            found, _, _ = self._ranks(base * ranks, (ranks,))
            rows += found
        for row in rows:
            one = next(r for r in rows if r["workers"] == 1 and r["measured"] == row["measured"])
            row["efficiency"] = one["seconds"]["median"] / row["seconds"]["median"]
            row["speedup"] = row["efficiency"] * row["workers"]
        self._keep("weak", rows)

    def _ranks(
        self, neurons: int, workers: Sequence[int]
    ) -> tuple[list[Row], dict[int, list[Split]], list[int]]:
        """One problem, at once where there is room and alone where there is one machine."""
        problem, rows = self._cell(neurons), []
        self.reporter.phase(f"{neurons:,} neurons by {', '.join(map(str, workers))} ranks")
        for ranks in filter(self.places.fit, workers):
            spec = runtime_spec(self.config, ranks, self.threads, self.places.device)
            with open_runtime(spec) as runtime:
                found = at_once(problem, runtime, self.sizes.repeats)
            rows.append(self._row(neurons, ranks, WHOLE, found))
        critical: dict[int, list[Split]] = {}
        sizes: list[int] = []
        if not self.places.cluster:
            critical, sizes = one_by_one(
                problem,
                workers,
                (self.places.device, self.threads),
                self.sizes.repeats,
                self.exchange,
            )
            rows += [self._row(neurons, n, CRITICAL, found) for n, found in critical.items()]
        hashes = {row["picks_sha256"] for row in rows}
        if len(hashes) > 1:
            raise PicksDifferError(f"{neurons:,} neurons: numbers of ranks pick differently")
        for row in rows:
            self.reporter.note(
                f"{row['workers']} ranks ({row['measured']}): {row['seconds']['median']:.4f} s, "
                f"exchange {row['exchange_s']:.4f} s, wait {row['wait_s']:.4f} s"
            )
        return rows, critical, sizes

    def _row(self, neurons: int, workers: int, measured: str, found: Sequence[Split]) -> Row:
        def median(key: str) -> float:
            return statistics.median(getattr(split, key) for split in found)

        return {
            "neurons": neurons,
            "samples": self.sizes.samples,
            "workers": workers,
            "runtime": self.config.runtime.kind if measured == WHOLE else "none",
            "device": self.places.device,
            "measured": measured,
            "seconds": spread([split.seconds for split in found]),
            "setup_s": median("setup_s"),
            "compute_s": median("compute_s"),
            "exchange_s": median("exchange_s"),
            "wait_s": median("wait_s"),
            "picks": len(found[0].path),
            "peak_memory_bytes": max(split.peak_rss_bytes for split in found),
            "picks_sha256": found[0].path.sha256,
        }

    def _loops(self) -> None:
        """The exchange in the loop against the bare one, the loop against one without."""
        if not self.places.fit(2):
            self.bench.notes.append("two ranks cannot compute at once here: loops not compared")
            return
        self.reporter.phase("the loop in the workers")
        spec = runtime_spec(self.config, 2, self.threads, "cpu")
        with open_runtime(spec) as runtime:
            seed, repeats = self.config.seed, self.sizes.repeats
            exchange = exchange_row(runtime, seed, repeats)
            widest = self.sizes.neurons[-1]
            problem = cell(self.sizes.samples, widest, self.sizes.picks, seed, "streaming")
            loop = loop_row(runtime, problem, repeats)
        self.bench.tables["exchange in the loop"] = [exchange]
        self.bench.tables["loop in the workers"] = [loop]
        self.reporter.note(
            f"exchange of a step {exchange['over_bare']:.2f} times the bare one; the loop "
            f"{loop['above']:+.1%} against the same without exchanges, steps of "
            f"{loop['step_ms']:.1f} ms"
        )

    def _keep(self, suite: str, rows: Sequence[Row]) -> None:
        self.bench.rows += [{"suite": suite, **row} for row in rows]
        self.bench.keep()

    def _tell(self) -> None:
        single = ("neurons", "device", "picks_per_s", "steps_s", "bytes_floor_s", "macs_floor_s",
                  "loop_floor_s", "over_floor")  # fmt: skip
        by_ranks = ("suite", "neurons", "workers", "measured", "seconds", "setup_s", "compute_s",
                    "exchange_s", "wait_s", "speedup", "efficiency")  # fmt: skip
        rows = self.bench.rows
        ones, others = (
            [r for r in rows if r["suite"] == "single"],
            [r for r in rows if "workers" in r],
        )
        tell_rows(self.reporter, "one process against its floors", ones, single)
        tell_rows(self.reporter, "by ranks: seconds, median", others, by_ranks)
        for title in ("widths that pay", "exchange in the loop", "loop in the workers"):
            if found := self.bench.tables.get(title):
                tell_rows(self.reporter, title, found, tuple(found[0]))


def _add_speedups(rows: Sequence[Row]) -> None:
    for row in rows:
        one = next(r for r in rows if r["workers"] == 1 and r["measured"] == row["measured"])
        row["speedup"] = one["seconds"]["median"] / row["seconds"]["median"]
        row["efficiency"] = row["speedup"] / row["workers"]


def _words(sizes: Sizes, places: Places, config: schema.Benchmark) -> list[str]:
    neurons = ", ".join(f"{n:,}" for n in sizes.neurons)
    return [
        f"two-layer search, lazy columns, float64: {sizes.samples:,} samples x {neurons} neurons, "
        f"{sizes.picks:,} picks; strong scaling of each, weak scaling of "
        f"{sizes.neurons[len(sizes.neurons) // 2]:,} neurons a rank",
        places.words(sizes.workers, config.runtime.kind, config.threads or 1),
        f"medians of {sizes.repeats} after one that is not timed; one process with "
        f"{usable_cores()} threads against its floors, whose rates are measured here too",
        "exchange in the loop: a search whose steps compute next to nothing; loop in the workers: "
        "ranks replayed side by side do the same work without exchanges",
    ]
