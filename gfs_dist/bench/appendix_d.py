"""``suite=appendix_d``: the time to prune blocks of a network, by more and more workers.

The paper's Figure 4 with numbers. Each block and objective is searched
    by ranks at once where there are cores or GPUs for them         "whole"
    by one process with all threads                                 "best single process"
    by ranks alone, one after another                               "critical path"
    by a forward pass of the whole network for each candidate       "full forwards", network_loss
From the critical paths follow what more workers would take, how far that is from what was
measured, how a layer is best divided, and how far each phase is from its floor.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product

import torch

from gfs_dist.bench.block_model import (
    Alone,
    BlockModel,
    Misfit,
    Whole,
    losses_of_search,
    misfits_of,
    split_rows,
    work_of,
)
from gfs_dist.bench.block_searches import BlockSearches, WarmUp
from gfs_dist.bench.blocks import Block, BlockProblem
from gfs_dist.bench.exchange_cost import measure_exchanges
from gfs_dist.bench.floors import RankFloors, exchange_floor_rows
from gfs_dist.bench.model.timing_model import Exchange
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
from gfs_dist.bench.suite import SuiteReport
from gfs_dist.config import commands as schema
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.runtime.resources import forget_peak, peak_bytes, usable_cores
from gfs_dist.workflows.prune_deep import scratch
from gfs_dist.workflows.run_report import check_reach

BEST, FORWARDS = "best single process", "full forwards"
SHOWN = (
    "block", "objective", "workers", "measured", "seconds", "setup_s", "steps_s", "exchange_s",
    "wait_s", "speedup", "efficiency",
)  # fmt: skip


class AppendixDSuite:
    """The measurements of one configuration.

    Raises:
        ConfigError: a layer or device that does not exist.
    """

    def __init__(self, config: schema.Benchmark) -> None:
        self.config = config
        self.problem = BlockProblem.of(config)
        self.sizes = self.problem.sizes
        self.objectives = tuple(config.objectives or schema.OBJECTIVES)
        self.placement = Placement.of(config)
        self.searches: BlockSearches
        self.exchange: Exchange
        self.floors: RankFloors

    def plan(self) -> list[str]:
        sizes = self.sizes
        steps = f"{sizes.steps:,}" if sizes.steps else "all"
        candidates = f"{sizes.candidates:,}" if sizes.candidates else "all"
        return [
            f"{self.config.model.name}, random weights and {sizes.images:,} random images of "
            f"{sizes.image_size} x {sizes.image_size}; {', '.join(self.objectives)}; {steps} "
            f"picks, network_loss scores {candidates} candidates a step on "
            f"{min(sizes.batch, sizes.images)} images",
            f"blocks: {'; '.join(block.words for block in self.problem.blocks)}",
            self.placement.words(sizes.workers),
            f"every measurement {sizes.repeats} times after one that is not timed, medians",
            f"beside them the best single process ({usable_cores()} threads), and for "
            "network_loss every candidate by a forward pass of the whole network, as public code "
            "does it: a few timed, scaled to all",
            "scikit-learn's orthogonal_mp_gram, for the two-layer search, is in suite=select",
        ]

    def measure(self, report: SuiteReport) -> None:
        self.exchange = measure_exchanges(self.placement, report)
        self.floors = RankFloors.measured(self.placement.device, self.placement.threads)
        misfits: list[Misfit] = []
        with scratch(report.folder, "blocks") as folder:
            batches = [(self.problem.x, self.problem.labels)]
            workspace = Workspace.create(folder, self.problem.network, batches)
            self.searches = BlockSearches(self.problem, workspace)
            workspace.dense()
            whole = self._at_once(report)
            for block, objective in product(self.problem.blocks, self.objectives):
                misfits += self._block(block, objective, whole[block.name, objective], report)
                report.keep()
        if misfits:
            report.tables["misfit"] += [asdict(one) for one in misfits]
        report.note(worst_misfit(misfits))
        report.show("time to prune a block: seconds, median", report.rows, SHOWN)
        for title in ("phases", "layers side by side", "forecast", "splits"):
            report.show(title, report.tables.get(title, ()))

    def _at_once(self, report: SuiteReport) -> dict[tuple[str, str], dict[int, list[SearchTime]]]:
        """All blocks by ranks at once; workers of one number are started once for all."""
        blocks, place = self.problem.blocks, self.placement
        found: dict[tuple[str, str], dict[int, list[SearchTime]]] = {
            (block.name, objective): {} for block, objective in product(blocks, self.objectives)
        }
        for workers in filter(place.fits, self.sizes.workers):
            report.reporter.phase(f"{workers} workers at once", len(found))
            with open_runtime(place.spec(workers, place.threads, place.device)) as runtime:
                check_reach(report.folder, runtime)
                runtime.run_group(WarmUp(self.searches.workspace))
                for block, objective in product(blocks, self.objectives):
                    times = [
                        self.searches.at_once(block, objective, runtime)
                        for _ in range(1 + self.sizes.repeats)
                    ][1:]
                    found[block.name, objective][workers] = times
                    seconds = statistics.median(one.seconds for one in times)
                    report.reporter.note(f"{block.words}, {objective}: {seconds:.3f} s")
                for block in blocks if "network_loss" in self.objectives else ():
                    row = self.searches.side_by_side(block, runtime, self.sizes.repeats)
                    if row is not None:
                        report.tables["layers side by side"] += [row]
        return found

    def _block(
        self, block: Block, objective: str, whole: Whole, report: SuiteReport
    ) -> list[Misfit]:
        """The other ways to search a block, its rows, and what follows from them."""
        report.reporter.phase(f"{block.words}, {objective}")
        best = self._best(block, objective)
        alone = [] if self.placement.cluster else self._alone(block, objective)
        rows = [self._row(block, objective, 1, BEST, best)]
        rows += [self._row(block, objective, n, WHOLE, times) for n, times in whole.items()]
        for n in self.sizes.workers if alone else ():
            rows.append(self._row(block, objective, n, CRITICAL, [run[n] for run in alone]))
        check_picks(f"{block.name}, {objective}", rows)
        if objective == "network_loss":
            rows.append(self._full_forwards(block, best[0]))
        add_speedups(rows)
        report.rows += rows
        for row in rows:
            report.reporter.note(
                f"{block.name} {objective}, {row['workers']} workers ({row['measured']}): "
                f"{row['seconds']['median']:.3f} s, {row['speedup']:.2f} times one rank"
            )
        if not alone or len(self.sizes.workers) < 2:
            return []
        return self._model(block, objective, whole, alone, report)

    def _best(self, block: Block, objective: str) -> list[SearchTime]:
        """This process with all threads."""
        found = []
        spec = RuntimeSpec("none", 1, self.placement.device, usable_cores())
        with open_runtime(spec) as runtime:
            for _ in range(1 + self.sizes.repeats):
                forget_peak()
                timed = self.searches.at_once(block, objective, runtime)
                found.append(replace(timed, peak_bytes=peak_bytes()))
        return found[1:]

    def _alone(self, block: Block, objective: str) -> list[dict[int, SearchTime]]:
        """Critical paths by number of ranks, of each repeat."""
        place, search = self.placement, self.searches.one_rank_at_a_time
        with OneRankAtATime(self.sizes.workers, place.device, place.threads) as runtime:
            return [
                search(block, objective, runtime, self.exchange) for _ in range(self.sizes.repeats)
            ]

    def _row(
        self, block: Block, objective: str, workers: int, measured: str, times: Sequence[SearchTime]
    ) -> TimeRow:
        return {
            "block": block.name,
            "channels": block.layer.num_candidates,
            "size": block.size,
            "objective": objective,
            **time_row(workers, measured, self.placement, times),
            "threads": usable_cores() if measured == BEST else self.placement.threads,
            "seconds": range_of([one.seconds for one in times]),
            "steps_s": statistics.median(one.compute_s for one in times),
        }

    def _full_forwards(self, block: Block, best: SearchTime) -> TimeRow:
        """What the same candidates cost by a forward pass of the whole network each."""
        threads, device = usable_cores(), torch.device(self.placement.device)
        count, steps = self.sizes.repeats + 1, len(best.path)
        seconds = self.searches.full_forwards(block, best.path, device, threads, count)
        with open_runtime(RuntimeSpec("none", 1, "cpu")) as runtime:
            pruner = self.searches.pruner(block, "network_loss", runtime)
            losses = losses_of_search(pruner, block, self.sizes.images, steps)
        return {
            "block": block.name,
            "channels": block.layer.num_candidates,
            "size": block.size,
            "objective": "network_loss",
            "workers": 1,
            "runtime": "none",
            "device": self.placement.device,
            "threads": threads,
            "measured": f"{FORWARDS}, {count} of {losses:,} timed, scaled",
            "seconds": range_of([one * losses for one in seconds]),
            "picks": steps,
        }

    def _model(
        self, block: Block, objective: str, whole: Whole, alone: Alone, report: SuiteReport
    ) -> list[Misfit]:
        """Forecast, the cheapest way to divide, floors; and how far the model is off."""
        one, workers, exchange = alone[0][1], self.sizes.workers, self.exchange
        with open_runtime(RuntimeSpec("none", 1, "cpu")) as runtime:
            pruner = self.searches.pruner(block, objective, runtime)
            steps, device = len(one.path), self.placement.device
            work = work_of(self.problem, block, objective, pruner, steps, device)
        sizes = self.searches.exchange_bytes[block.name, objective]
        model = BlockModel.fit(block.name, objective, alone, work, exchange, sizes)
        report.tables["forecast"] += model.forecast_rows(workers)
        phases = self.floors.phase_rows(work, objective, one)
        phases += exchange_floor_rows(whole, sizes, exchange)
        what = {"block": block.name, "objective": objective}
        splits = split_rows(work, one, exchange, workers)
        report.tables["splits"] += [{**what, **row} for row in splits]
        report.tables["phases"] += [{**what, **row} for row in phases]
        return misfits_of(model, work, alone, whole)


def range_of(values: Sequence[float]) -> dict[str, float]:
    """Of repeats, as Figure 4 reads it."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def worst_misfit(misfits: Sequence[Misfit]) -> str:
    """How far the model is off, in words."""
    if not misfits:
        return "nothing was forecast: that takes two numbers of workers, timed alone"
    worst = max(misfits, key=lambda one: abs(one.misfit))
    inside = sum(one.low_s <= one.measured_s <= one.high_s for one in misfits)
    return (
        f"the model's worst misfit is {worst.misfit:+.0%} ({worst.block}, "
        f"{worst.objective}, {worst.workers} workers, {worst.against}); "
        f"{inside} of {len(misfits)} measurements lie within its error bars"
    )
