"""The ways in which ``suite=appendix_d`` searches a block.

by all ranks at once, as ``gfs prune`` does it
by each rank alone, one after another
every candidate by a forward pass of the whole network, as public code does it
layers alike side by side, a rank each, against one after another by all ranks
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from gfs_dist.bench.blocks import Block, BlockProblem
from gfs_dist.bench.model.timing_model import Exchange, makespan
from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime
from gfs_dist.bench.search_time import SearchTime
from gfs_dist.bench.suite import Row
from gfs_dist.errors import PicksDifferError
from gfs_dist.networks import evaluating
from gfs_dist.networks.measure.threads import exact
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.objectives.evaluation_batches import Sampling
from gfs_dist.pruning.objectives.network_loss import NetworkLossProblem
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.structure.structure import Layer, Structure
from gfs_dist.runtime import (
    MapResult,
    Peers,
    Runtime,
    RuntimeObserver,
    SearchResult,
    Tick,
    Work,
    WorkResult,
)
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from gfs_dist.workflows.process import use_threads

RECIPE = Recipe("squared", "auto", "uniform", replacement=False)
SAME_LOSS = 1e-4
"""A loss by a full forward pass may differ from the search's by this share: float32 sums in
another order."""


@dataclass(frozen=True)
class WarmUp:
    """A group task after which every rank has read the network."""

    workspace: Workspace

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> None:
        self.workspace.dense()
        peers.barrier()


class _Results(RuntimeObserver):
    """Keeps the results of one search, and of maps before it."""

    def __init__(self) -> None:
        self.search: SearchResult
        self.peak_bytes = 0

    def on_result(self, work: Work, result: WorkResult) -> None:
        if isinstance(result, SearchResult):
            self.search = result
        if isinstance(result, SearchResult | MapResult):
            ranks = result.timing["ranks"]
            self.peak_bytes = max(self.peak_bytes, *(row["peak_rss_bytes"] for row in ranks))


@dataclass(frozen=True)
class LayerSearch:
    """A task whose items are layers, each searched by one rank by the loss of the network."""

    workspace: Workspace
    stop: Stop
    sampling: Sampling

    def problem(self, layer: Layer) -> NetworkLossProblem:
        return NetworkLossProblem(self.workspace, layer, RECIPE, self.sampling)

    def run(self, layer: Layer, device: torch.device, tick: Callable[[], None]) -> GreedyPath:
        share = RankShare.whole(layer.num_candidates)
        return greedy(self.problem(layer).objective(share, device, tick), self.stop)


@dataclass(frozen=True)
class BlockSearches:
    """Searches blocks of a network.

    Attributes:
        workspace: its network and images, where all ranks reach them.
        exchange_bytes: of each exchange, by block and objective that was searched by ranks alone.
    """

    problem: BlockProblem
    workspace: Workspace
    exchange_bytes: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def pruner(self, block: Block, objective: str, runtime: Runtime) -> Pruner:
        settings = self.problem.settings(block, objective)
        return Pruner(self.workspace, Structure((block.layer,), ()), settings, runtime)

    def at_once(self, block: Block, objective: str, runtime: Runtime) -> SearchTime:
        """By all ranks of ``runtime``; set-up is what its steps and exchanges leave."""
        results = _Results()
        runtime.observers.append(results)
        path, seconds = self._search(block, objective, runtime)
        runtime.observers.remove(results)
        found = SearchTime.at_once(results.search)
        setup_s = seconds - found.compute_s - found.exchange_s
        return replace(
            found, seconds=seconds, setup_s=setup_s, peak_bytes=results.peak_bytes, path=path
        )

    def one_rank_at_a_time(
        self, block: Block, objective: str, runtime: OneRankAtATime, exchange: Exchange
    ) -> dict[int, SearchTime]:
        """By each rank alone: the critical path of every number of ranks.

        serial + sum_maps makespan(items) + max_r set-up + sum_j max_r stretch + exchanges
        """
        runtime.forget()
        path, seconds = self._search(block, objective, runtime)
        (timed,) = runtime.searches
        self.exchange_bytes[block.name, objective] = timed.record.sizes
        serial_s, found = seconds - runtime.inside_s, {}
        for ranks in timed.ranks:
            moments_s = sum(makespan(items, ranks) for items in runtime.maps)
            search = timed.critical_path(ranks, exchange)
            found[ranks] = replace(
                search,
                seconds=serial_s + moments_s + search.seconds,
                setup_s=serial_s + moments_s + search.setup_s,
                path=path,
                phases={"serial": serial_s, "moments": moments_s, **search.phases},
            )
        return found

    def _search(self, block: Block, objective: str, runtime: Runtime) -> tuple[GreedyPath, float]:
        pruner = self.pruner(block, objective, runtime)
        assert pruner.sites, "found once for all layers of a network, so not timed"
        began = time.perf_counter()
        pruner.search()
        return pruner.paths[block.name].path, time.perf_counter() - began

    def full_forwards(
        self, block: Block, path: GreedyPath, device: torch.device, threads: int, count: int
    ) -> list[float]:
        """Seconds of ``count`` candidates by a forward pass of the whole network each.

        As public code evaluates ``network_loss``: the layer's other channels are masked and the
        mini-batch goes through everything. The first candidate is the search's first pick, whose
        loss must be the same.

        Raises:
            PicksDifferError: it is not.
        """
        network = self.problem.network
        sampling = self.problem.settings(block, "network_loss").sampling
        x, labels = self.workspace.rows(sampling.rows(self.workspace.num_samples))
        x, labels = x.to(device), labels.to(device)
        assert isinstance(x, Tensor)
        others = [i for i in range(block.layer.num_candidates) if i != path.picks[0]]
        seconds, losses = [], []
        try:
            with use_threads(threads), exact():
                network.to(device)
                for candidate in [path.picks[0], path.picks[0], *others[: count - 1]]:
                    began = time.perf_counter()
                    losses.append(_masked_loss(network, block, candidate, x, labels))
                    seconds.append(time.perf_counter() - began)
        finally:
            network.cpu()
        if abs(losses[0] - path.loss[0]) > SAME_LOSS * max(abs(path.loss[0]), 1.0):
            raise PicksDifferError(
                f"{block.name}: candidate {path.picks[0]} has loss {losses[0]} by a forward pass "
                f"of the whole network, {path.loss[0]} by the search"
            )
        return seconds[1:]  # the first warms up

    def side_by_side(self, block: Block, runtime: Runtime, repeats: int) -> Row | None:
        """As many layers like ``block`` as there are ranks; None where there are not so many.

        Layers whose steps are too short to be worth an exchange gain by a rank each.

        Raises:
            PicksDifferError: a layer's picks depend on the way.
        """
        ranks = runtime.num_ranks
        if not 2 <= ranks <= len(block.alike):
            return None
        layers, settings = block.alike[:ranks], self.problem.settings(block, "network_loss")
        assert settings.steps is not None
        task = LayerSearch(self.workspace, Stop(settings.steps), settings.sampling)
        together, by_turns = [], []
        for _ in range(repeats):  # the workers are warm: they have searched every block
            began = time.perf_counter()
            paths = list(runtime.map(task, layers))
            together.append(time.perf_counter() - began)
            began = time.perf_counter()
            split = [runtime.search(task.problem(layer), task.stop).path for layer in layers]
            by_turns.append(time.perf_counter() - began)
            if [path.picks for path in paths] != [path.picks for path in split]:
                raise PicksDifferError(f"{block.name}: layers side by side pick differently")
        side_s, split_s = statistics.median(together), statistics.median(by_turns)
        return {
            "block": block.name,
            "objective": "network_loss",
            "workers": ranks,
            "layers": ", ".join(layer.name for layer in layers),
            "side_by_side_s": side_s,
            "all_ranks_s": split_s,
            "side_by_side_over_split": split_s / side_s,
        }


def _masked_loss(
    network: nn.Module, block: Block, candidate: int, x: Tensor, labels: Tensor
) -> float:
    """Cross-entropy with one candidate in the place of all: its consumers read it times n."""
    handles = []
    for consumer in block.layer.consumers:
        module = network.get_submodule(consumer.module)
        gates = torch.ones(module.get_parameter("weight").shape[1], device=x.device)
        for number, channels in enumerate(consumer.channels):
            for channel in channels:
                gates[channel] = block.layer.num_candidates * (number == candidate)
        gates = gates.view(-1, *(1,) * (0 if isinstance(module, nn.Linear) else 2))
        handles.append(module.register_forward_pre_hook(partial(_gated, gates)))
    try:
        with evaluating(network):
            return float(nn.functional.cross_entropy(network(x).double(), labels))
    finally:
        for handle in handles:
            handle.remove()


def _gated(gates: Tensor, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a module reads, multiplied channel by channel."""
    return (given[0] * gates, *given[1:])
