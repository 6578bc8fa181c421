"""From the times of single ranks to what many would take, and to how a layer is best divided."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gfs_dist.bench.block_runs import Timed
from gfs_dist.bench.blocks import Block, Study
from gfs_dist.bench.model import (
    Estimate,
    Exchange,
    LayerWork,
    Line,
    Rates,
    choose_split,
    costs_of_splits,
)
from gfs_dist.networks.measure.costs import macs_by_module
from gfs_dist.pruning.calibration.moments import Geometry, multiply_adds
from gfs_dist.pruning.objectives.evaluation_batches import BatchSizes, search_costs
from gfs_dist.pruning.objectives.layer_replacement import LayerReplacement
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.selection.objectives.factory import Recipe

Row = dict[str, Any]
FORECAST = tuple(2**i for i in range(3, 11))
"""Numbers of workers that are forecast: 8 to 1,024."""


Share = Callable[[int], float]
"""Of all work, what the rank has that has most, by number of ranks."""


@dataclass(frozen=True)
class Model:
    """What one block and objective takes by any number of ranks.

    Attributes:
        serial: seconds of the caller's own.
        phases: of a rank, and what of each it has.
        exchange, sizes: and bytes of every exchange of the search.
    """

    serial: Estimate
    phases: Mapping[str, tuple[Line, Share]]
    exchange: Exchange
    sizes: Sequence[int]

    @classmethod
    def fit(
        cls,
        runs: Sequence[Mapping[int, Timed]],
        shares: Mapping[str, Share],
        exchange: Exchange,
        sizes: Sequence[int],
    ) -> Model:
        """Calibrated by critical paths.

        Args:
            runs: repeats; of each the numbers of ranks.
            shares: of each phase that there is.
            exchange: measured.
            sizes: bytes of each exchange.

        A phase of which the ranks had the same share in all runs is taken not to be shared out.
        """
        phases = {}
        for phase, share in shares.items():
            points = [(share(n), run[n].phases[phase]) for run in runs for n in run]
            tells = len({own for own, _ in points}) > 1
            seconds = [value for _, value in points]
            phases[phase] = (Line.fit(points) if tells else Line.constant(seconds), share)
        serial = [run[n].phases["serial"] for run in runs for n in run]
        return cls(_estimate(serial), phases, exchange, sizes)

    def at(self, ranks: int) -> Estimate:
        """Seconds to expect."""
        exchange_s = sum(self.exchange.seconds(ranks, size) for size in self.sizes)
        return Estimate.sum(
            [
                self.serial,
                *(line.at(share(ranks)) for line, share in self.phases.values()),
                Estimate(exchange_s, exchange_s * self.exchange.error),
            ]
        )


def _estimate(values: Sequence[float]) -> Estimate:
    mean = statistics.fmean(values)
    return Estimate(mean, statistics.stdev(values) if len(values) > 1 else 0.0)


def shares_of(work: LayerWork) -> dict[str, Share]:
    """Of each phase: samples and cells of the table of a step; or moments over parts of the samples
    and all else over candidates.
    """
    if work.rows:
        return {"set-up": work.row_share, "steps": partial(_table_share, work)}
    candidates = partial(share_of, work.candidates)
    return {"set-up": candidates, "steps": candidates, "moments": partial(share_of, work.parts)}


def share_of(items: int, ranks: int) -> float:
    """Of the rank that has most of equal items."""
    return math.ceil(items / ranks) / items


def _table_share(work: LayerWork, ranks: int) -> float:
    own = work.common * work.row_share(ranks) + work.divided * work.cell_share(ranks)
    return own / (work.common + work.divided)


def forecast_rows(model: Model, measured: Sequence[int]) -> list[Row]:
    """What more workers would take than were measured."""
    one = model.at(1).seconds
    rows = []
    for ranks in FORECAST:
        if ranks not in measured:
            at = model.at(ranks)
            speedup = one / at.seconds
            rows.append(
                {
                    "workers": ranks,
                    "seconds": at.seconds,
                    "low_s": at.low_s,
                    "high_s": at.high_s,
                    "speedup": speedup,
                    "efficiency": speedup / ranks,
                }
            )
    return rows


def misfit_row(model: Model, ranks: int, seconds: float, against: str) -> Row:
    """Predicted over measured, less 1, and whether the error bars hold it."""
    at = model.at(ranks)
    return {
        "workers": ranks,
        "against": against,
        "measured_s": seconds,
        "predicted_s": at.seconds,
        "low_s": at.low_s,
        "high_s": at.high_s,
        "misfit": at.seconds / seconds - 1,
    }


def work_of(
    study: Study, block: Block, objective: str, pruner: Pruner, path_steps: int, device: str
) -> LayerWork:
    """Multiply-adds of a search, by who has to do them.

    Trials are taken to go side by side, which those of few networks cannot.

    Args:
        study, block, objective: what is searched.
        pruner: of the block's layer.
        path_steps: picks that were made.
        device: type of the one that ranks compute on.
    """
    common: dict[str, Any] = {
        "candidates": block.layer.num_candidates,
        "steps": path_steps,
        "like": len(block.alike),
        "parts": len(pruner.workspace.parts()),
    }
    if objective == "network_loss":
        return LayerWork(**common, **_trials(study, block, pruner, path_steps, device))
    return LayerWork(**common, **_moments(study, block, objective, pruner))


def _trials(study: Study, block: Block, pruner: Pruner, steps: int, device: str) -> Row:
    settings, network, sampling = pruner.settings, pruner.dense, pruner.settings.sampling
    recipe = Recipe("squared", "auto", settings.weights, settings.replacement)
    samples = min(sampling.batch, study.sizes.images)
    losses = search_costs(
        network, block.layer, pruner.example, samples, steps, recipe, sampling
    ).losses
    by_module = macs_by_module(network, pruner.example)
    replaced, n = LayerReplacement(network, block.layer), block.layer.num_candidates
    trial, shared = replaced.macs(by_module)
    sizes = BatchSizes.of(replaced, pruner.example, samples, device)
    rows, scored = math.ceil(samples / sizes.samples), min(n, sampling.candidates or n)
    batches = math.ceil(scored / sizes.trials(scored, rows))
    return {
        "once": samples * (sum(by_module.values()) + shared),  # to the layer, and once through it
        "once_divided": 0.0,
        "common": samples * shared,
        "divided": samples * trial * losses / steps,
        "column_bytes": 0.0,
        "rows": rows,
        "cells": rows * batches,
        "table_bytes": 8 * rows * scored,
    }


def _moments(study: Study, block: Block, objective: str, pruner: Pruner) -> Row:
    """``B = A V0`` goes with the moments; a rank reads own rows of both, and for ``layer_output``
    makes own columns of a Gram of them.
    """
    n, total = (
        block.layer.num_candidates,
        dict.fromkeys(("once_divided", "divided", "moments"), 0.0),
    )
    column_bytes = 0.0
    by_module = macs_by_module(pruner.dense, pruner.example)
    for site in pruner.consumer_sites([block.layer]):
        module = pruner.dense.get_submodule(site.module)
        outputs, inputs = module.get_parameter("weight").flatten(1).shape
        kernel = inputs // n
        total["moments"] += inputs**2 * outputs
        if objective == "least_squares":
            total["once_divided"] += inputs**2
            # Gains, the elimination of a pick, half the columns on average.
            total["divided"] += n * kernel**2 * (outputs + kernel)
            total["divided"] += n * kernel**2 * (inputs / 2 + outputs)
            column_bytes += 8 * kernel * (inputs / 2 + outputs)
        else:
            total["once_divided"] += inputs**2 * outputs
            total["divided"] += n
        geometry = Geometry.of(module)
        positions = by_module[site.module] // (outputs * inputs)
        channels = inputs // math.prod(geometry.kernel)
        modules = list(by_module)
        before = sum(by_module[name] for name in modules[: modules.index(site.module) + 1])
        total["moments"] += study.sizes.images * (
            before + multiply_adds(geometry, channels, outputs, positions)
        )
    return {
        **total,
        "once": 0.0,
        "common": 0.0,
        "column_bytes": column_bytes,
    }


def split_rows(
    work: LayerWork, one: Timed, exchange: Exchange, workers: Sequence[int]
) -> list[Row]:
    """The cheapest way to divide a layer, the way that ``gfs prune`` takes, and what all cost.

    The rate is calibrated by one rank alone, whose set-up and steps are all of the search.
    """
    search = work.once + work.once_divided + work.steps * (work.common + work.divided)
    rates = Rates(search / (one.phases["set-up"] + one.phases["steps"]), exchange)
    # The pass before the search runs at a rate of its own.
    moments = one.phases["moments"] * rates.macs_per_s
    work = LayerWork(**{**vars(work), "moments": moments})
    rows = []
    for ranks in workers:
        chosen = choose_split(work, ranks, rates)
        costs = {f"{way}_s": cost for way, cost in costs_of_splits(work, ranks, rates).items()}
        ours = "samples" if work.rows else "candidates"
        rows.append({"workers": ranks, "cheapest": chosen.way, "gfs prune": ours, **costs})
    return rows
