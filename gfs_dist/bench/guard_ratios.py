"""The ratios of ``suite=guard``: how many times as fast ours is as something plain."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import closing

import torch

from gfs_dist.bench.block_runs import Runs
from gfs_dist.bench.blocks import Block, Sizes, Study, find_blocks, rehearsal
from gfs_dist.bench.cell_problem import CellProblem
from gfs_dist.bench.loop_cost import exchange_row
from gfs_dist.bench.model import Exchange
from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime
from gfs_dist.bench.two_layer_cell import Cell, measure
from gfs_dist.bench.two_layer_search import at_once, cell
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.runtime import Runtime, RuntimeSpec, open_runtime
from gfs_dist.selection.stop import Stop
from gfs_dist.workflows.process import use_threads
from gfs_dist.workflows.stored_networks import fresh_network

SAMPLES, NEURONS, PICKS = 1_000, 400, 30
SHORT = 10
"""Times as many repeats for a side of milliseconds: one disturbance would double its least."""
NETWORK = {"model": "resnet20_cifar", "num_classes": 10, "in_channels": 3}
NETWORK_SIZES = Sizes(32, 16, 16, 4, 16, (1, 2), 1)
CHANNELS = 64
FREE = Exchange(0.0, 0.0, 0.0)


def method_over_exhaustive(objective: str, method: str, repeats: int, seed: int) -> float:
    """Times of a whole search, 1,000 samples, 400 neurons, 30 picks, one thread; sides in turn."""

    def seconds(method: str, repeats: int) -> float:
        problem = Cell(SAMPLES, NEURONS, PICKS, PICKS, objective, method, repeats, 1, seed)
        return float(measure(problem)["total_s"]["minimum"])

    with use_threads(1):
        rounds = [(seconds("exhaustive", 2), seconds(method, SHORT)) for _ in range(repeats)]
    exhaustive, fast = map(min, zip(*rounds, strict=True))
    return exhaustive / fast


def network_loss_over_forwards(repeats: int, seed: int) -> float:
    """A candidate by a forward pass of the whole ResNet20, over one by the search."""
    runs, block, folder = _network(seed)
    with folder, closing(OneRankAtATime([1], "cpu")) as ranks:
        found = [runs.one_by_one(block, "network_loss", ranks, FREE)[1] for _ in range(1 + repeats)]
        cpu = torch.device("cpu")
        forwards = runs.full_forwards(block, found[0].path, cpu, 1, 1 + repeats)
    losses = NETWORK_SIZES.candidates or CHANNELS
    steps = min(timed.steps_s for timed in found) / len(found[0].path)
    return min(forwards) * losses / steps


def two_ranks_over_one(objective: str, repeats: int, seed: int) -> float:
    """The search of a layer of ResNet20 by one rank, over the critical path of two."""
    runs, block, folder = _network(seed)
    with folder, closing(OneRankAtATime([1, 2], "cpu")) as ranks:
        found = [runs.one_by_one(block, objective, ranks, FREE) for _ in range(1 + repeats)]
    one, two = (min(run[count].steps_s for run in found) for count in (1, 2))
    return one / two


def bare_exchange_over_loop(repeats: int, seed: int) -> float:
    """Two reductions bare, over what a step of a search exchanges, by 2 workers."""
    with open_runtime(RuntimeSpec("local", 2, "cpu", 1)) as runtime:
        row = exchange_row(runtime, seed, repeats)
    return float(row["bare_s"]["minimum"] / row["exchange_of_a_step_s"]["minimum"])


def one_process_over_worker(repeats: int, seed: int) -> float:
    """A search in this process, over the same in a worker with all its supervision."""
    problem = cell(SAMPLES, 4 * NEURONS, PICKS, seed)
    with open_runtime(RuntimeSpec("local", 1, "cpu", 1)) as worker:
        there = min(split.compute_s for split in at_once(problem, worker, repeats))
    executor = OneRankAtATime([1], "cpu")
    with Runtime(executor) as here:
        for _ in range(1 + repeats):
            here.search(CellProblem(problem), Stop(problem.picks))
    return min(sum(timings[1][0].stretches_s) for _, timings in executor.searches) / there


def _network(seed: int) -> tuple[Runs, Block, ScratchFolder]:
    """ResNet20 with random weights in a folder to be closed, and its first layer of 64."""
    network = fresh_network(NETWORK, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(NETWORK_SIZES.images, 3, 32, 32, generator=generator)
    labels = torch.arange(len(x)) % 10
    with rehearsal(network, x, labels) as pruner:
        blocks = find_blocks(network, pruner.structure.layers, x[:2])
    block = next(b for b in blocks if b.layer.num_candidates == CHANNELS)
    folder = ScratchFolder("guard")
    workspace = Workspace.create(folder.path / "workspace", network, [(x, labels)])
    return Runs(Study(network, x, labels, (block,), NETWORK_SIZES, seed), workspace), block, folder


RATIOS: dict[str, Callable[[int, int], float]] = {
    "panel over exhaustive": functools.partial(method_over_exhaustive, "squared", "panel"),
    "lazy over exhaustive": functools.partial(method_over_exhaustive, "squared", "lazy"),
    "streaming over exhaustive": functools.partial(method_over_exhaustive, "squared", "streaming"),
    "screened over exhaustive": functools.partial(method_over_exhaustive, "bce", "screened"),
    "network_loss over full forwards": network_loss_over_forwards,
    "two ranks over one, network_loss": functools.partial(two_ranks_over_one, "network_loss"),
    "two ranks over one, least_squares": functools.partial(two_ranks_over_one, "least_squares"),
    "worker over one process": one_process_over_worker,
    "exchange bare over in the loop": bare_exchange_over_loop,
}
"""By name; each takes the number of repeats and a seed."""
