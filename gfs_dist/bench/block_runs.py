"""The searches of ``suite=appendix_d``: together, one rank after another, and as others do it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gfs_dist.bench.blocks import Block, Study
from gfs_dist.bench.model import Exchange, critical_path, makespan
from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime
from gfs_dist.errors import PicksDifferError
from gfs_dist.networks import evaluating
from gfs_dist.pruning.calibration.determinism import exact
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.records import Timing
from gfs_dist.runtime import (
    Peers,
    Runtime,
    RuntimeObserver,
    Tick,
    Work,
    WorkResult,
)
from gfs_dist.selection.path import GreedyPath
from gfs_dist.workflows.process import use_threads

SAME_LOSS = 1e-4
"""A loss by a full forward pass may differ from the search's by this share: float32 sums in
another order."""


@dataclass(frozen=True)
class Timed:
    """One search of one block.

    Attributes:
        seconds: all of it; the others are parts of it, and ``setup_s`` what they leave.
        steps_s: computing from the first step to the last, of the slowest rank.
        exchange_s: inside exchanges, as the network costs.
        wait_s: the most that one rank waits for slower ones; part of ``steps_s``.
        peak_rss_bytes: of the rank that needs most.
        path: what was picked.
        phases: of a critical path: ``serial`` (the caller's own), ``moments``, ``set-up``,
            ``steps``.
    """

    seconds: float
    steps_s: float
    exchange_s: float
    wait_s: float
    peak_rss_bytes: int
    path: GreedyPath
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def setup_s(self) -> float:
        """Before the first step and after the last."""
        return self.seconds - self.steps_s - self.exchange_s


class Timings(RuntimeObserver):
    """Keeps what searches and maps took."""

    def __init__(self) -> None:
        self.rows: list[Timing] = []

    def on_result(self, work: Work, result: WorkResult) -> None:
        if work is not Work.GROUP:
            self.rows.append(result.timing)


@dataclass(frozen=True)
class WarmUp:
    """A group task after which every rank has read the network."""

    workspace: Workspace

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> None:
        """Read it, and wait for all."""
        self.workspace.dense()
        peers.barrier()


@dataclass(frozen=True)
class Runs:
    """Searches blocks of a study.

    Attributes:
        study: what.
        workspace: its network and images, where all ranks reach them.
        sizes: bytes of each exchange, by block and objective that ran one by one.
    """

    study: Study
    workspace: Workspace
    sizes: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def run_group(self, block: Block, objective: str, runtime: Runtime) -> Timed:
        """By all ranks of ``runtime`` at once, as ``gfs prune`` does it."""
        timings = Timings()
        runtime.observers.append(timings)
        path, seconds = self._search(block, objective, runtime)
        runtime.observers.remove(timings)
        ranks = [row for timing in timings.rows for row in timing["ranks"]]
        search = next(timing for timing in timings.rows if "exchange_s" in timing)
        return Timed(
            seconds,
            max(row["compute_s"] for row in search["ranks"]),
            search["exchange_s"],
            search["wait_s"],
            max(row["peak_rss_bytes"] for row in ranks),
            path,
        )

    def one_by_one(
        self, block: Block, objective: str, executor: OneRankAtATime, exchange: Exchange
    ) -> dict[int, Timed]:
        """By each rank alone: the critical path of every number of ranks.

        serial + sum_maps makespan(items) + max_r set-up + sum_j max_r stretch + exchanges
        """
        executor.searches, executor.maps, executor.inside_s = [], [], 0.0
        path, seconds = self._search(block, objective, Runtime(executor))
        ((told, timings),) = executor.searches
        self.sizes[block.name, objective] = told.sizes
        found = {}
        for ranks, own in timings.items():
            critical = critical_path([t.setup_s for t in own], [t.stretches_s for t in own])
            exchange_s = sum(exchange.seconds(ranks, size) for size in told.sizes)
            phases = {
                "serial": seconds - executor.inside_s,
                "moments": sum(makespan(items, ranks) for items in executor.maps),
                "set-up": critical.setup_s,
                "steps": critical.steps_s,
            }
            found[ranks] = Timed(
                sum(phases.values()) + exchange_s,
                critical.steps_s,
                exchange_s,
                critical.wait_s,
                max(t.peak_rss_bytes for t in own),
                path,
                phases,
            )
        return found

    def _search(self, block: Block, objective: str, runtime: Runtime) -> tuple[GreedyPath, float]:
        structure, settings = Structure((block.layer,), ()), self.study.settings(block, objective)
        pruner = Pruner(self.workspace, structure, settings, runtime)
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
        sampling = self.study.settings(block, "network_loss").sampling
        x, labels = self.workspace.rows(sampling.rows(self.workspace.num_samples))
        x, labels = x.to(device), labels.to(device)
        others = [i for i in range(block.layer.num_candidates) if i != path.picks[0]]
        seconds, losses = [], []
        with use_threads(threads), exact(), _on(self.study.network, device) as network:
            for candidate in [path.picks[0], path.picks[0], *others[: count - 1]]:
                began = time.perf_counter()
                losses.append(_masked_loss(network, block, candidate, x, labels))
                seconds.append(time.perf_counter() - began)
        if abs(losses[0] - path.loss[0]) > SAME_LOSS * max(abs(path.loss[0]), 1.0):
            raise PicksDifferError(
                f"{block.name}: candidate {path.picks[0]} has loss {losses[0]} by a forward pass "
                f"of the whole network, {path.loss[0]} by the search"
            )
        return seconds[1:]  # the first warms up


@contextmanager
def _on(network: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    try:
        yield network.to(device)
    finally:
        network.cpu()


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
        handles.append(module.register_forward_pre_hook(_Gate(gates, module)))
    try:
        with evaluating(network):
            return float(nn.functional.cross_entropy(network(x).double(), labels))
    finally:
        for handle in handles:
            handle.remove()


class _Gate:
    """Multiplies what a module reads, channel by channel."""

    def __init__(self, gates: Tensor, module: nn.Module) -> None:
        spatial = 0 if isinstance(module, nn.Linear) else 2
        self._gates = gates.view(-1, *(1,) * spatial)

    def __call__(self, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0] * self._gates, *given[1:])
