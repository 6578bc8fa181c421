"""What widths are worth: the loss of the really cut and refitted network on some samples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gfs_dist.networks.graph_network import GraphNetwork
from gfs_dist.pruning.layerwise.environments import InMemory
from gfs_dist.pruning.layerwise.sites import Site
from gfs_dist.pruning.layerwise.smaller import Choice, make_small
from gfs_dist.pruning.layerwise.sweep import (
    DENSE,
    SMALL,
    Pair,
    Visit,
    one_thread_each,
    sum_chunks,
    sweep,
)
from gfs_dist.pruning.layerwise.track import Results
from gfs_dist.pruning.layerwise.workspace import Workspace
from gfs_dist.pruning.structure import Structure


@dataclass(frozen=True)
class TrialTask:
    """Cuts, refits the consumers once, and compares outputs with the dense network's.

    The value is the mean Kullback-Leibler divergence ``sum p log(p / q)`` of the softmax of the
    outputs, in nats: what the cut network gets wrong of the dense one, without labels.

    Attributes:
        workspace, structure: of the network.
        sites: of the consumers.
        num_chunks: how many of the first chunks of samples are used.
    """

    workspace: Workspace
    structure: Structure
    sites: tuple[Site, ...]
    num_chunks: int

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> float:
        """The divergence of one choice."""
        assert isinstance(item, Choice)
        dense = _dense_results(self)
        small = make_small(dense.network, self.structure, item)
        pair = Pair(
            dense.network,
            small,
            self.sites,
            item.outputs(self.structure),
            dense_results=dense.results,
        )
        envs = InMemory()
        chunks = range(self.num_chunks)
        for chunk in chunks:
            start = {dense.network.gfs_inputs[0]: self.workspace.x(chunk)}
            envs.save(SMALL, 0, chunk, start)

        def sum_up(visit: Visit) -> list[Tensor]:
            tick()
            return sum_chunks(lambda chunk: pair.sums(visit, chunk, envs), chunks)

        sweep(pair, sum_up, repeats=0, on_site=lambda stage: envs.drop(SMALL, stage))
        with one_thread_each() as pool:
            parts = list(pool.map(lambda chunk: _divergence(*pair.logits(chunk, envs)), chunks))
        return sum(total for total, _ in parts) / sum(count for _, count in parts)


@dataclass
class _Dense:
    """The dense network's results that all trials are compared with."""

    network: GraphNetwork
    results: dict[tuple[int, int], Results]


@functools.lru_cache(maxsize=1)
def _dense_results(task: TrialTask) -> _Dense:
    network = task.workspace.dense()
    pair = Pair(network, network, task.sites, {})
    envs, results = InMemory(), {}

    def run(chunk: int) -> None:
        envs.save(DENSE, 0, chunk, {network.gfs_inputs[0]: task.workspace.x(chunk)})
        for stage in range(len(task.sites) + 1):
            results[stage, chunk] = pair.enter_track(DENSE, Visit(stage, False), chunk, envs)
            envs.drop(DENSE, stage)

    with one_thread_each() as pool:
        list(pool.map(run, range(task.num_chunks)))
    return _Dense(network, {key: _only(pair, key[0], found) for key, found in results.items()})


def _only(pair: Pair, stage: int, results: Results) -> Results:
    return {name: results[name] for name in pair.asked[DENSE][stage]}


def _divergence(dense: Tensor, small: Tensor) -> tuple[float, int]:
    """Summed over a chunk's samples, and their number; outputs without classes: squared error."""
    if dense.ndim != 2 or dense.shape[1] < 2:
        difference = (dense.double() - small.double()).square().sum()
        return float(difference / 2), len(dense)
    p, q = dense.double().log_softmax(1), small.double().log_softmax(1)
    return float((p.exp() * (p - q)).sum()), len(dense)
