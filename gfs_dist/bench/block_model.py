"""What blocks would take by any number of ranks, from the times of ranks alone and counted work."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gfs_dist.bench.block_searches import RECIPE
from gfs_dist.bench.blocks import Block, BlockProblem
from gfs_dist.bench.model.splits import LayerWork, costs_of_splits
from gfs_dist.bench.model.timing_model import Estimate, Exchange, Line
from gfs_dist.bench.search_time import CRITICAL, WHOLE, SearchTime
from gfs_dist.bench.suite import Row
from gfs_dist.networks.measure.costs import macs_by_module
from gfs_dist.networks.models.layer_kinds import weight_matrix
from gfs_dist.pruning.calibration.moments import Geometry, multiply_adds
from gfs_dist.pruning.objectives.evaluation_batches import BatchSizes, search_costs
from gfs_dist.pruning.objectives.layer_replacement import LayerReplacement
from gfs_dist.pruning.pruner import Pruner

FORECAST = tuple(2**i for i in range(3, 11))
"""Numbers of workers that are forecast: 8 to 1,024."""
SPLIT_WORKERS = (8, 64, 512)

Alone = Sequence[Mapping[int, SearchTime]]
"""Repeats of a search by ranks alone: critical paths by number of ranks."""
Whole = Mapping[int, Sequence[SearchTime]]
"""Repeats of a search by all ranks at once, by their number."""


@dataclass(frozen=True)
class Misfit:
    """Predicted over measured, less 1, and the error bars of the prediction."""

    block: str
    objective: str
    workers: int
    against: str
    measured_s: float
    predicted_s: float
    low_s: float
    high_s: float
    misfit: float


@dataclass(frozen=True)
class BlockModel:
    """What one block and objective takes by any number of ranks.

        seconds(P) = serial + sum_phases (a + b share(P)) + sum_exchanges e(P, bytes)

    Attributes:
        block, objective: what is searched.
        serial: seconds of the caller's own.
        phases: of a rank, and the share of each that the slowest rank has, by number of ranks.
        exchange, sizes: and bytes of every exchange of the search.
    """

    block: str
    objective: str
    serial: Estimate
    phases: Mapping[str, tuple[Line, Callable[[int], float]]]
    exchange: Exchange
    sizes: Sequence[int]

    @classmethod
    def fit(
        cls,
        block: str,
        objective: str,
        alone: Alone,
        work: LayerWork,
        exchange: Exchange,
        sizes: Sequence[int],
    ) -> BlockModel:
        """Calibrated by critical paths.

        A phase of which the ranks had the same share in all runs is taken not to be shared out.
        """
        times = [(ranks, one) for run in alone for ranks, one in run.items()]
        phases = {}
        for phase, share in work.phase_shares().items():
            points = [(share(ranks), one.phases[phase]) for ranks, one in times]
            tells = len({own for own, _ in points}) > 1
            seconds = [value for _, value in points]
            phases[phase] = (Line.fit(points) if tells else Line.constant(seconds), share)
        serial = Estimate.mean([one.phases["serial"] for _, one in times])
        return cls(block, objective, serial, phases, exchange, sizes)

    def at(self, ranks: int) -> Estimate:
        exchange_s = sum(self.exchange.seconds(ranks, size) for size in self.sizes)
        return Estimate.sum(
            [
                self.serial,
                *(line.at(share(ranks)) for line, share in self.phases.values()),
                Estimate(exchange_s, exchange_s * self.exchange.error),
            ]
        )

    def forecast_rows(self, measured: Sequence[int]) -> list[Row]:
        """What more workers would take than were measured."""
        one, rows = self.at(1).seconds, list[Row]()
        for ranks in FORECAST:
            if ranks not in measured:
                at = self.at(ranks)
                rows.append({
                    "block": self.block,
                    "objective": self.objective,
                    "workers": ranks,
                    "seconds": at.seconds,
                    "low_s": at.low_s,
                    "high_s": at.high_s,
                    "speedup": one / at.seconds,
                    "efficiency": one / at.seconds / ranks,
                })  # fmt: skip
        return rows

    def misfit(self, ranks: int, times: Sequence[SearchTime], against: str) -> Misfit:
        """Against the median of what was measured."""
        at, seconds = self.at(ranks), statistics.median(one.seconds for one in times)
        return Misfit(
            self.block, self.objective, ranks, against, seconds,
            at.seconds, at.low_s, at.high_s, at.seconds / seconds - 1,
        )  # fmt: skip


def misfits_of(model: BlockModel, work: LayerWork, alone: Alone, whole: Whole) -> list[Misfit]:
    """The model against all that it was fitted to, against ranks at once, and the largest number
    of ranks against a model that was fitted without it.
    """
    workers = sorted(alone[0])
    found = [model.misfit(n, [run[n] for run in alone], CRITICAL) for n in workers]
    found += [model.misfit(n, times, WHOLE) for n, times in whole.items()]
    if len(workers) > 2:
        *fewer, most = workers
        without = [{n: run[n] for n in fewer} for run in alone]
        held_out = BlockModel.fit(
            model.block, model.objective, without, work, model.exchange, model.sizes
        )
        longest = [run[most] for run in alone]
        found.append(held_out.misfit(most, longest, f"{CRITICAL}, held out"))
    return found


def split_rows(
    work: LayerWork, one: SearchTime, exchange: Exchange, workers: Sequence[int]
) -> list[Row]:
    """The cheapest way to divide a layer, the way that ``gfs prune`` takes, and what all cost.

    The rate is calibrated by one rank alone, whose set-up and steps are all of the search.
    """
    macs_per_s = work.search / (one.phases["set-up"] + one.phases["steps"])
    # The pass before the search runs at a rate of its own.
    work = replace(work, moments=one.phases["moments"] * macs_per_s)
    rows = list[Row]()
    for ranks in sorted({*workers, *SPLIT_WORKERS}):
        costs = costs_of_splits(work, ranks, macs_per_s, exchange)
        rows.append({
            "workers": ranks,
            "cheapest": min(costs, key=costs.__getitem__),
            "gfs prune": "samples" if work.rows else "candidates",
            **{f"{way}_s": cost for way, cost in costs.items()},
        })  # fmt: skip
    return rows


def losses_of_search(pruner: Pruner, block: Block, num_samples: int, steps: int) -> int:
    """Losses of the network that a search by ``network_loss`` evaluates."""
    sampling = pruner.settings.sampling
    costs = search_costs(
        pruner.dense, block.layer, pruner.only_input, num_samples, steps, RECIPE, sampling
    )
    return costs.losses


def work_of(
    problem: BlockProblem, block: Block, objective: str, pruner: Pruner, steps: int, device: str
) -> LayerWork:
    """Multiply-adds of a search, by how they are divided among ranks.

    Trials are taken to go side by side, which those of few networks cannot.

    Args:
        problem, block, objective: what is searched.
        pruner: of the block's layer.
        steps: picks that were made.
        device: type of the one that ranks compute on.
    """
    work = LayerWork(
        candidates=block.layer.num_candidates,
        steps=steps,
        like=len(block.alike),
        parts=len(pruner.workspace.parts()),
    )
    if objective == "network_loss":
        return _work_of_trials(work, problem, block, pruner, device)
    return _work_of_moments(work, problem, block, objective, pruner)


def _work_of_trials(
    work: LayerWork, problem: BlockProblem, block: Block, pruner: Pruner, device: str
) -> LayerWork:
    network, sampling = pruner.dense, pruner.settings.sampling
    samples = min(sampling.batch, problem.sizes.images)
    losses = losses_of_search(pruner, block, samples, work.steps)
    by_module = macs_by_module(network, pruner.example)
    replaced, n = LayerReplacement(network, block.layer), work.candidates
    trial, shared = replaced.macs(by_module)
    sizes = BatchSizes.of(replaced, pruner.only_input, samples, device)
    rows, scored = math.ceil(samples / sizes.samples), min(n, sampling.candidates or n)
    batches = math.ceil(scored / sizes.trials(scored, rows))
    return replace(
        work,
        once=samples * (sum(by_module.values()) + shared),  # to the layer, and once through it
        common=samples * shared,
        divided=samples * trial * losses / work.steps,
        rows=rows,
        cells=rows * batches,
        table_bytes=8 * rows * scored,
    )


def _work_of_moments(
    work: LayerWork, problem: BlockProblem, block: Block, objective: str, pruner: Pruner
) -> LayerWork:
    """``B = A V0`` goes with the moments; a rank reads own rows of both, and for ``layer_output``
    makes own columns of a Gram of them.
    """
    n, once_divided, divided, moments, column_bytes = work.candidates, 0.0, 0.0, 0.0, 0.0
    by_module = macs_by_module(pruner.dense, pruner.example)
    for site in pruner.consumer_sites([block.layer]):
        module = pruner.dense.get_submodule(site.module)
        outputs, inputs = weight_matrix(module).shape
        kernel = inputs // n
        moments += inputs**2 * outputs
        if objective == "least_squares":
            once_divided += inputs**2
            # Gains, the elimination of a pick, half the columns on average.
            divided += n * kernel**2 * (outputs + kernel)
            divided += n * kernel**2 * (inputs / 2 + outputs)
            column_bytes += 8 * kernel * (inputs / 2 + outputs)
        else:
            once_divided += inputs**2 * outputs
            divided += n
        geometry = Geometry.of(module)
        positions = by_module[site.module] // (outputs * inputs)
        channels = inputs // math.prod(geometry.kernel)
        modules = list(by_module)
        before = sum(by_module[name] for name in modules[: modules.index(site.module) + 1])
        moments += problem.sizes.images * (
            before + multiply_adds(geometry, channels, outputs, positions)
        )
    return replace(
        work,
        once_divided=once_divided,
        divided=divided,
        column_bytes=column_bytes,
        moments=moments,
    )
