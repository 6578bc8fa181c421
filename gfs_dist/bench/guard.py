"""``suite=guard``: how many times as fast ours is as something plain, against an earlier run.

Ratios of two times of one run hold from machine to machine where seconds do not. Less is worse;
each side is the least of some repeats, which other work on the machine disturbs least.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import torch

from gfs_dist.bench.block_searches import BlockSearches
from gfs_dist.bench.blocks import Block, BlockProblem, BlockSizes, find_blocks
from gfs_dist.bench.exchange_cost import exchange_in_loop
from gfs_dist.bench.model.timing_model import Exchange
from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime
from gfs_dist.bench.scaling_suite import search_at_once
from gfs_dist.bench.suite import SuiteReport
from gfs_dist.bench.two_layer_cell import Cell, CellProblem, measure
from gfs_dist.config import commands as schema
from gfs_dist.errors import ConfigError, WorseError
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.files.untrusted import load_json
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.selection.stop import Stop
from gfs_dist.workflows.process import use_threads
from gfs_dist.workflows.stored_networks import fresh_network

MARGIN = 2.0
REPEATS = {"smoke": 3, "paper": 10}
SAMPLES, NEURONS, PICKS = 1_000, 400, 30
SHORT = 10
"""Times as many repeats for a side of milliseconds: one disturbance would double its least."""
NETWORK = {"model": "resnet20_cifar", "num_classes": 10, "in_channels": 3}
NETWORK_SIZES = BlockSizes((1, 2), 1, 32, 16, 16, 4, 16)
CHANNELS = 64
FREE = Exchange(0.0, 0.0, 0.0)


class RatioRow(TypedDict):
    """One ratio; ``worse`` is None where no record is to be compared with."""

    name: str
    ratio: float
    recorded: float | None
    worse: bool | None


class GuardSuite:
    """The measurements of one configuration.

    Raises:
        ConfigError: the record cannot be read.
    """

    def __init__(self, config: schema.Benchmark) -> None:
        self.config, self.margin = config, config.margin or MARGIN
        self.recorded = {} if config.record is None else read_record(Path(config.record))

    def plan(self) -> list[str]:
        against = (
            "nothing to compare with: record=FILE names an earlier run"
            if self.config.record is None
            else f"worse: less than 1/{self.margin:g} of {self.config.record}"
        )
        return [
            f"{len(RATIOS)} ratios of times, each side the least of some repeats: "
            f"{', '.join(RATIOS)}",
            against,
        ]

    def measure(self, report: SuiteReport) -> None:
        """All ratios.

        Raises:
            WorseError: one is worse than its record.
        """
        report.reporter.phase("guard", len(RATIOS))
        repeats, rows = self.config.repeats or REPEATS[self.config.preset], list[RatioRow]()
        for number, (name, ratio) in enumerate(RATIOS.items(), start=1):
            rows.append(
                compared(name, ratio(repeats, self.config.seed), self.recorded, self.margin)
            )
            report.rows.append(rows[-1])
            report.reporter.step(number)
        report.show("ratios: more is better", rows)
        refuse_worse(rows, self.margin)


def compared(name: str, ratio: float, recorded: Mapping[str, float], margin: float) -> RatioRow:
    """One row; what has no record is not compared."""
    before = recorded.get(name)
    worse = None if before is None else ratio * margin < before
    return {"name": name, "ratio": ratio, "recorded": before, "worse": worse}


def refuse_worse(rows: Sequence[RatioRow], margin: float) -> None:
    """Fail if anything got worse.

    Raises:
        WorseError: names all that did.
    """
    worse = [row for row in rows if row["worse"]]
    if worse:
        found = "; ".join(f"{r['name']} {r['ratio']:.3g}, was {r['recorded']:.3g}" for r in worse)
        raise WorseError(f"guard: worse by more than {margin:g} times: {found}")


def read_record(file: Path) -> dict[str, float]:
    """Ratios by name, of a report or record.

    Raises:
        ConfigError: no such file, or none of our ratios in it.
    """
    try:
        rows = load_json(file)["results"]
        ratios = {row["name"]: float(row["ratio"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"record: {file} cannot be read ({type(error).__name__}), accepted the report.json of "
            "an earlier suite=guard, or its record"
        ) from error
    if not ratios.keys() & RATIOS.keys():
        raise ConfigError(f"record: found none of {', '.join(RATIOS)} in {file}")
    return ratios


def method_over_exhaustive(objective: str, method: str, repeats: int, seed: int) -> float:
    """Times of a whole search, 1,000 samples, 400 neurons, 30 picks, one thread; sides in turn."""

    def seconds(method: str, repeats: int) -> float:
        problem = Cell(SAMPLES, NEURONS, PICKS, PICKS, objective, method, repeats, 1, seed)
        return measure(problem)["total_s"]["minimum"]

    with use_threads(1):
        rounds = [(seconds("exhaustive", 2), seconds(method, SHORT)) for _ in range(repeats)]
    exhaustive, fast = map(min, zip(*rounds, strict=True))
    return exhaustive / fast


def network_loss_over_forwards(repeats: int, seed: int) -> float:
    """A candidate by a forward pass of the whole ResNet20, over one by the search."""
    with resnet20(seed) as (searches, block), OneRankAtATime([1], "cpu") as runtime:
        found = [
            searches.one_rank_at_a_time(block, "network_loss", runtime, FREE)[1]
            for _ in range(1 + repeats)
        ]
        cpu = torch.device("cpu")
        forwards = searches.full_forwards(block, found[0].path, cpu, 1, 1 + repeats)
    losses = NETWORK_SIZES.candidates or CHANNELS
    steps = min(timed.compute_s for timed in found) / len(found[0].path)
    return min(forwards) * losses / steps


def two_ranks_over_one(objective: str, repeats: int, seed: int) -> float:
    """The search of a layer of ResNet20 by one rank, over the critical path of two."""
    with resnet20(seed) as (searches, block), OneRankAtATime([1, 2], "cpu") as runtime:
        found = [
            searches.one_rank_at_a_time(block, objective, runtime, FREE) for _ in range(1 + repeats)
        ]
    one, two = (min(run[count].compute_s for run in found) for count in (1, 2))
    return one / two


def exchange_over_its_loop(repeats: int, seed: int) -> float:
    """Two reductions alone, over what a step of a search exchanges, by 2 workers."""
    with open_runtime(RuntimeSpec("local", 2, "cpu", 1)) as runtime:
        found = exchange_in_loop(runtime, seed, repeats)
    return found.bare_s["minimum"] / found.exchange_of_a_step_s["minimum"]


def one_process_over_worker(repeats: int, seed: int) -> float:
    """A search in this process, over the same in a worker with all its supervision."""
    cell = Cell.of_ranks(SAMPLES, 4 * NEURONS, PICKS, seed)
    with open_runtime(RuntimeSpec("local", 1, "cpu", 1)) as worker:
        there = min(one.compute_s for one in search_at_once(cell, worker, repeats))
    with OneRankAtATime([1], "cpu") as here:
        for _ in range(1 + repeats):
            here.search(CellProblem(cell), Stop(cell.picks))
    return min(sum(search.ranks[1][0].stretches_s) for search in here.searches) / there


@contextmanager
def resnet20(seed: int) -> Iterator[tuple[BlockSearches, Block]]:
    """ResNet20 with random weights, and its first layer of 64."""
    network = fresh_network(NETWORK, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(NETWORK_SIZES.images, 3, 32, 32, generator=generator)
    labels = torch.arange(len(x)) % 10
    blocks = find_blocks(network, x, labels)
    block = next(block for block in blocks if block.layer.num_candidates == CHANNELS)
    with ScratchFolder("guard") as folder:
        workspace = Workspace.create(folder / "workspace", network, [(x, labels)])
        problem = BlockProblem(network, x, labels, (block,), NETWORK_SIZES, seed)
        yield BlockSearches(problem, workspace), block


RATIOS: dict[str, Callable[[int, int], float]] = {
    "lazy over exhaustive": functools.partial(method_over_exhaustive, "squared", "lazy"),
    "streaming over exhaustive": functools.partial(method_over_exhaustive, "squared", "streaming"),
    "screened over exhaustive": functools.partial(method_over_exhaustive, "bce", "screened"),
    "network_loss over full forwards": network_loss_over_forwards,
    "two ranks over one, network_loss": functools.partial(two_ranks_over_one, "network_loss"),
    "two ranks over one, least_squares": functools.partial(two_ranks_over_one, "least_squares"),
    "worker over one process": one_process_over_worker,
    "exchange bare over in the loop": exchange_over_its_loop,
}
"""By name; each takes the number of repeats and a seed."""
