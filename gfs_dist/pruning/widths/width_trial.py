"""Trials of widths: the loss of the cut and refitted network on some samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from gfs_dist.networks.measure.threads import one_thread_each
from gfs_dist.pruning.calibration.layer_sites import Site
from gfs_dist.pruning.calibration.moments import Sums, sum_chunks
from gfs_dist.pruning.calibration.staged_run import (
    SMALL,
    MemoryStore,
    Results,
    advance,
    keep,
    make_stages,
)
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.repair.sweep import NetworkPair, Visit, sweep
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.structure.structure import Structure

Value = TypeVar("Value")

JOINED = {"cuda": 4}
"""Chunks of samples that are one batch on a device: a GPU has little to do with one."""


@dataclass(frozen=True)
class WidthTrial:
    """Cuts, refits the consumers once, and compares outputs with the dense network's.

    The value is the mean Kullback-Leibler divergence ``sum p log(p / q)`` of the softmax of the
    outputs, in nats: how far the cut network is from the dense one, without labels.

    Attributes:
        workspace, structure: of the network.
        sites: of the consumers.
        fitted: chunks that consumers are refitted on.
        compared: chunks whose outputs are compared; others, where there are enough, since a fit
            is better on its own samples than it is.
    """

    workspace: Workspace
    structure: Structure
    sites: tuple[Site, ...]
    fitted: tuple[int, ...]
    compared: tuple[int, ...]

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> float:
        """The divergence of the network that keeps these channels."""
        assert isinstance(item, KeptChannels)
        dense = self.workspace.dense(device)
        known = _dense_results(self, device)
        pair = NetworkPair.of_cut(dense, self.structure, item, self.sites, dense_results=known)
        store = MemoryStore()
        fitted = batches(self.fitted, device)
        for place, chunks in enumerate(fitted):
            store.save(SMALL, 0, place, {dense.gfs_inputs[0]: self.x(chunks, device)})

        def sum_up(visit: Visit) -> Sums:
            tick()
            return sum_chunks(lambda place: pair.sums(visit, place, store), range(len(fitted)))

        sweep(pair, sum_up, repeats=0, on_site=lambda stage: store.drop(SMALL, stage))

        def compare(chunks: Sequence[int], known: Tensor) -> tuple[float, int]:
            with torch.no_grad():
                return divergence(known, pair.small(self.x(chunks, device)))

        compared = batches(self.compared, device)
        with one_thread_each() as pool:
            parts = list(pool.map(compare, compared, _dense_outputs(self, device)))
        return sum(total for total, _ in parts) / sum(count for _, count in parts)

    def x(self, chunks: Sequence[int], device: torch.device) -> Tensor:
        """Inputs of a few chunks, one below the other; read when they are needed."""
        return torch.cat([self.workspace.x(chunk) for chunk in chunks]).to(device)


def batches(chunks: Sequence[int], device: torch.device) -> list[Sequence[int]]:
    """Which chunks go through the network together."""
    count = JOINED.get(device.type, 1)
    return [chunks[at : at + count] for at in range(0, len(chunks), count)]


@functools.lru_cache(maxsize=1)
def _dense_outputs(task: WidthTrial, device: torch.device) -> list[Tensor]:
    """The dense network's outputs on the samples that are compared."""
    return _on_batches(task, task.compared, device, task.workspace.dense(device))


@functools.lru_cache(maxsize=1)
def _dense_results(task: WidthTrial, device: torch.device) -> dict[int, Results]:
    """The dense network's streams on the fitted samples, which all trials are aimed at."""
    network = task.workspace.dense(device)
    stages = make_stages(network, [frozenset([site.stream]) for site in task.sites])

    def streams(x: Tensor) -> Results:
        found: Results = {}
        results: Results = {network.gfs_inputs[0]: x}
        for stage in stages:
            results = advance(network, stage, results)
            found |= keep(results, stage.asked)
            results = keep(results, stage.live)
        return found

    return dict(enumerate(_on_batches(task, task.fitted, device, streams)))


def _on_batches(
    task: WidthTrial, chunks: Sequence[int], device: torch.device, run: Callable[[Tensor], Value]
) -> list[Value]:
    """Results of ``run`` for each batch of inputs, several at a time."""

    def on_batch(batch: Sequence[int]) -> Value:
        with torch.no_grad():
            return run(task.x(batch, device))

    with one_thread_each() as pool:
        return list(pool.map(on_batch, batches(chunks, device)))


def divergence(dense: Tensor, small: Tensor) -> tuple[float, int]:
    """The divergence summed over a chunk's samples, and their number.

    Outputs without classes: half the squared error. Outputs that are not finite are infinitely
    far: NaN would compare as less than anything.
    """
    if not torch.isfinite(small).all():
        return math.inf, len(small)
    if dense.ndim != 2 or dense.shape[1] < 2:
        difference = (dense.double() - small.double()).square().sum()
        return float(difference / 2), len(dense)
    p, q = dense.double().log_softmax(1), small.double().log_softmax(1)
    return float((p.exp() * (p - q)).sum()), len(dense)
