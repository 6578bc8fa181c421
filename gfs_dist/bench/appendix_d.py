"""``suite=appendix_d``: the time to prune blocks of a network, by more and more workers.

The paper's Figure 4 with numbers: each block and objective is searched by one process with all
threads, by ranks at once where there are cores or GPUs for them, and by ranks one after another;
and, for ``network_loss``, by a forward pass of the whole network for each candidate.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch

from gfs_dist.bench.block_model import (
    Model,
    forecast_rows,
    misfit_row,
    shares_of,
    split_rows,
    work_of,
)
from gfs_dist.bench.block_runs import Runs, Timed, WarmUp
from gfs_dist.bench.blocks import Block, Study, make_study
from gfs_dist.bench.exchange_cost import exchange_of, measure_exchanges
from gfs_dist.bench.floors import Floors, exchange_rows, phase_rows
from gfs_dist.bench.model import Exchange
from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime
from gfs_dist.bench.placement import Places
from gfs_dist.bench.side_by_side import side_by_side_row
from gfs_dist.bench.suite import Bench, Row, runtime_spec, tell_rows
from gfs_dist.config import commands as schema
from gfs_dist.config.benchmark import OBJECTIVES
from gfs_dist.errors import PicksDifferError
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.objectives.evaluation_batches import search_costs
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.runtime import Runtime, RuntimeSpec, open_runtime
from gfs_dist.runtime.resources import forget_peak, peak_bytes, usable_cores
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.workflows.prune_deep import scratch
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import check_reach

WHOLE, CRITICAL, BEST = "whole", "critical path", "best single process"
FORWARDS = "full forwards"
SHOWN = (
    "block", "objective", "workers", "measured", "seconds", "setup_s", "steps_s", "exchange_s",
    "wait_s", "speedup", "efficiency",
)  # fmt: skip
SPLIT_WORKERS = (8, 64, 512)

Whole = dict[tuple[str, str], dict[int, list[Timed]]]
"""By block and objective, and by number of ranks."""


def run(config: schema.Benchmark, reporter: Reporter) -> dict[str, Any]:
    """Measure, and write the run folder; returns what ``report.json`` holds."""
    plan = Plan.of(config)
    reporter.plan(plan.lines())
    with Bench.opened(config, reporter, plan.lines()) as bench:
        AppendixD(plan, bench, reporter).run()
    return bench.content


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        config: as composed.
        study: blocks.
        objectives: for which.
        places: where.
        threads: a rank.
    """

    config: schema.Benchmark
    study: Study
    objectives: tuple[str, ...]
    places: Places
    threads: int

    @classmethod
    def of(cls, config: schema.Benchmark) -> Plan:
        """Read what there is on this machine.

        Raises:
            ConfigError: a layer or device that does not exist.
        """
        objectives = tuple(config.objectives or OBJECTIVES)
        return cls(config, make_study(config), objectives, Places.of(config), config.threads or 1)

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.places.device

    @property
    def whole(self) -> list[int]:
        """Numbers of ranks that are measured at once."""
        return [n for n in self.study.sizes.workers if self.places.fit(n)]

    def lines(self) -> list[str]:
        """In words."""
        sizes, kind = self.study.sizes, self.config.runtime.kind
        steps = f"{sizes.steps:,}" if sizes.steps else "all"
        candidates = f"{sizes.candidates:,}" if sizes.candidates else "all"
        return [
            f"{self.config.model.name}, random weights and {sizes.images:,} random images of "
            f"{sizes.image_size} x {sizes.image_size}; {', '.join(self.objectives)}; {steps} "
            f"picks, network_loss scores {candidates} candidates a step on "
            f"{min(sizes.batch, sizes.images)} images",
            f"blocks: {'; '.join(block.words for block in self.study.blocks)}",
            self.places.words(sizes.workers, kind, self.threads),
            f"every measurement {sizes.repeats} times after one that is not timed, medians",
            f"beside them the best single process ({usable_cores()} threads), and for "
            "network_loss every candidate by a forward pass of the whole network, as public code "
            "does it: a few timed, scaled to all",
            "scikit-learn's orthogonal_mp_gram, for the two-layer search, is in suite=select",
        ]


class AppendixD:
    """One run of the study."""

    def __init__(self, plan: Plan, bench: Bench, reporter: Reporter) -> None:
        self.plan, self.bench, self.reporter = plan, bench, reporter
        self.study, self.repeats = plan.study, plan.study.sizes.repeats
        self.runs: Runs
        self.exchange: Exchange
        self.floors: Floors

    def run(self) -> None:
        """All blocks for all objectives."""
        rows = measure_exchanges(self.plan.config, self.reporter)
        self.bench.tables["exchanges"] = rows
        self.exchange = exchange_of(rows)
        self.floors = Floors.measured(self.plan.device, self.plan.threads)
        study = self.study
        with scratch(self.bench.folder, "study") as folder:
            batches = [(study.x, study.labels)]
            workspace = Workspace.create(folder, study.network, batches)
            self.runs = Runs(study, workspace)
            workspace.dense()
            whole = self._whole()
            for block in study.blocks:
                for objective in self.plan.objectives:
                    self._block(block, objective, whole[block.name, objective])
                    self.bench.keep()
        worst = self._worst_misfit()
        if worst:
            self.bench.notes.append(worst)
            self.reporter.note(worst)
        tell_rows(self.reporter, "time to prune a block: seconds, median", self.bench.rows, SHOWN)
        for title in ("phases", "layers side by side", "forecast", "splits"):
            if found := self.bench.tables.get(title):
                tell_rows(self.reporter, title, found, tuple(found[0]))

    def _whole(self) -> Whole:
        """All blocks by ranks at once; workers of one number are started once for all."""
        found: Whole = {key: {} for key in self._searches()}
        for workers in self.plan.whole:
            self.reporter.phase(f"{workers} workers at once", len(found))
            spec = runtime_spec(self.plan.config, workers, self.plan.threads, self.plan.device)
            with open_runtime(spec) as runtime:
                check_reach(self.bench.folder, runtime)
                runtime.run_group(WarmUp(self.runs.workspace))
                for number, (key, (block, objective)) in enumerate(self._searches().items(), 1):
                    timed = [
                        self.runs.run_group(block, objective, runtime)
                        for _ in range(1 + self.repeats)
                    ][1:]
                    found[key][workers] = timed
                    seconds = statistics.median(one.seconds for one in timed)
                    self.reporter.note(f"{block.words}, {objective}: {seconds:.3f} s")
                    self.reporter.step(number)
                self._side_by_side(runtime)
        return found

    def _side_by_side(self, runtime: Runtime) -> None:
        """Layers alike, searched side by side or one after another by all ranks."""
        for block in self.study.blocks if "network_loss" in self.plan.objectives else ():
            row = side_by_side_row(self.study, self.runs.workspace, block, runtime, self.repeats)
            if row is not None:
                self.bench.tables.setdefault("layers side by side", []).append(row)

    def _searches(self) -> dict[tuple[str, str], tuple[Block, str]]:
        return {
            (block.name, objective): (block, objective)
            for block in self.study.blocks
            for objective in self.plan.objectives
        }

    def _block(self, block: Block, objective: str, whole: dict[int, list[Timed]]) -> None:
        self.reporter.phase(f"{block.words}, {objective}")
        best = self._best(block, objective)
        alone = self._alone(block, objective) if not self.plan.places.cluster else []
        rows = [self._row(block, objective, 1, BEST, best)]
        rows += [self._row(block, objective, n, WHOLE, timed) for n, timed in whole.items()]
        for n in self.study.sizes.workers if alone else ():
            rows.append(self._row(block, objective, n, CRITICAL, [run[n] for run in alone]))
        check_picks(rows)
        if objective == "network_loss":
            rows.append(self._full_forwards(block, best[0]))
        add_speedups(rows)
        self.bench.rows += rows
        for row in rows:
            self.reporter.note(row_words(row))
        if len(self.study.sizes.workers) > 1 and alone:
            self._model(block, objective, whole, alone)

    def _best(self, block: Block, objective: str) -> list[Timed]:
        """This process with all threads."""
        spec = RuntimeSpec("none", 1, self.plan.device, usable_cores())
        found = []
        with open_runtime(spec) as runtime:
            for _ in range(1 + self.repeats):
                forget_peak()
                timed = self.runs.run_group(block, objective, runtime)
                found.append(replace(timed, peak_rss_bytes=peak_bytes()))
        return found[1:]

    def _alone(self, block: Block, objective: str) -> list[dict[int, Timed]]:
        workers = self.study.sizes.workers
        with closing(OneRankAtATime(workers, self.plan.device, self.plan.threads)) as ranks:
            return [
                self.runs.one_by_one(block, objective, ranks, self.exchange)
                for _ in range(self.repeats)
            ]

    def _row(
        self, block: Block, objective: str, workers: int, measured: str, timed: Sequence[Timed]
    ) -> Row:
        def median(key: str) -> float:
            return statistics.median(getattr(one, key) for one in timed)

        seconds = [one.seconds for one in timed]
        hashes = {one.path.sha256 for one in timed}
        if len(hashes) > 1:
            raise PicksDifferError(f"{block.name}, {objective}: repeats differ: {sorted(hashes)}")
        return {
            "block": block.name,
            "channels": block.layer.num_candidates,
            "size": block.size,
            "objective": objective,
            "workers": workers,
            "runtime": self.plan.config.runtime.kind if measured == WHOLE else "none",
            "device": self.plan.device,
            "threads": usable_cores() if measured == BEST else self.plan.threads,
            "measured": measured,
            "seconds": {"min": min(seconds), "median": median("seconds"), "max": max(seconds)},
            "setup_s": median("setup_s"),
            "steps_s": median("steps_s"),
            "exchange_s": median("exchange_s"),
            "wait_s": median("wait_s"),
            "peak_memory_bytes": max(one.peak_rss_bytes for one in timed),
            "picks": len(timed[0].path),
            "picks_sha256": hashes.pop(),
        }

    def _full_forwards(self, block: Block, best: Timed) -> Row:
        """What the same candidates cost by a forward pass of the whole network each."""
        threads, device = usable_cores(), torch.device(self.plan.device)
        count = self.repeats + 1
        timed = self.runs.full_forwards(block, best.path, device, threads, count)
        losses = self._losses(block, len(best.path))
        return {
            "block": block.name,
            "channels": block.layer.num_candidates,
            "size": block.size,
            "objective": "network_loss",
            "workers": 1,
            "runtime": "none",
            "device": self.plan.device,
            "threads": threads,
            "measured": f"{FORWARDS}, {count} of {losses:,} timed, scaled",
            "seconds": {
                "min": min(timed) * losses,
                "median": statistics.median(timed) * losses,
                "max": max(timed) * losses,
            },
            "picks": len(best.path),
        }

    def _losses(self, block: Block, steps: int) -> int:
        pruner = self._pruner(block, "network_loss")
        return search_costs(
            pruner.dense,
            block.layer,
            pruner.example,
            self.study.sizes.images,
            steps,
            Recipe("squared", "auto", "uniform", replacement=False),
            pruner.settings.sampling,
        ).losses

    def _pruner(self, block: Block, objective: str) -> Pruner:
        structure, settings = Structure((block.layer,), ()), self.study.settings(block, objective)
        with open_runtime(RuntimeSpec("none", 1, "cpu")) as runtime:
            return Pruner(self.runs.workspace, structure, settings, runtime)

    def _model(
        self,
        block: Block,
        objective: str,
        whole: Mapping[int, Sequence[Timed]],
        alone: Sequence[Mapping[int, Timed]],
    ) -> None:
        """Forecast, check against what was measured, the cheapest way to divide, and floors."""
        what = {"block": block.name, "objective": objective}
        pruner = self._pruner(block, objective)
        picks = len(alone[0][1].path)
        work = work_of(self.study, block, objective, pruner, picks, self.plan.device)
        shares, sizes = shares_of(work), self.runs.sizes[block.name, objective]
        model = Model.fit(alone, shares, self.exchange, sizes)
        workers = self.study.sizes.workers
        misfits = [
            misfit_row(model, n, statistics.median(run[n].seconds for run in alone), CRITICAL)
            for n in workers
        ]
        for n, timed in whole.items():
            seconds = statistics.median(one.seconds for one in timed)
            misfits.append(misfit_row(model, n, seconds, WHOLE))
        if len(workers) > 2:  # the largest number, predicted from the others
            fewer = [{n: run[n] for n in workers[:-1]} for run in alone]
            held_out = Model.fit(fewer, shares, self.exchange, sizes)
            seconds = statistics.median(run[workers[-1]].seconds for run in alone)
            misfits.append(misfit_row(held_out, workers[-1], seconds, f"{CRITICAL}, held out"))
        splits = split_rows(work, alone[0][1], self.exchange, sorted({*workers, *SPLIT_WORKERS}))
        phases = phase_rows(work, objective, alone[0][1], self.floors)
        phases += exchange_rows(whole, sizes, self.exchange)
        for title, rows in (
            ("forecast", forecast_rows(model, workers)),
            ("misfit", misfits),
            ("splits", splits),
            ("phases", phases),
        ):
            self.bench.tables.setdefault(title, []).extend({**what, **row} for row in rows)

    def _worst_misfit(self) -> str:
        rows = self.bench.tables.get("misfit")
        if not rows:
            return "nothing was forecast: that takes two numbers of workers, timed alone"
        worst = max(rows, key=lambda row: abs(row["misfit"]))
        inside = sum(row["low_s"] <= row["measured_s"] <= row["high_s"] for row in rows)
        return (
            f"the model's worst misfit is {worst['misfit']:+.0%} ({worst['block']}, "
            f"{worst['objective']}, {worst['workers']} workers, {worst['against']}); "
            f"{inside} of {len(rows)} measurements lie within its error bars"
        )


def check_picks(rows: Sequence[Row]) -> None:
    """All runs of a block and objective must pick the same.

    Raises:
        PicksDifferError: names the first two that do not.
    """
    first = rows[0]
    for row in rows:
        if row["picks_sha256"] != first["picks_sha256"]:
            raise PicksDifferError(
                f"{row['block']}, {row['objective']}: {row['workers']} workers ({row['measured']}) "
                f"pick {row['picks_sha256'][:12]}, {first['workers']} ({first['measured']}) "
                f"{first['picks_sha256'][:12]}"
            )


def add_speedups(rows: Sequence[Row]) -> None:
    """Speed-up over one rank of as many threads, measured alike, and its share of the ideal."""
    ones = [row for row in rows if row["workers"] == 1 and row["measured"] in (WHOLE, CRITICAL)]
    for row in rows:
        one = next((o for o in ones if o["measured"] == row["measured"]), ones[-1])
        row["speedup"] = one["seconds"]["median"] / row["seconds"]["median"]
        resources = row["workers"] * row["threads"] / one["threads"]
        row["efficiency"] = row["speedup"] / resources


def row_words(row: Row) -> str:
    """A line for who waits."""
    return (
        f"{row['block']} {row['objective']}, {row['workers']} workers ({row['measured']}): "
        f"{row['seconds']['median']:.3f} s, {row['speedup']:.2f} times one rank"
    )
