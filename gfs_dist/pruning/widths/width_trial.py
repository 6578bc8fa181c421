"""Trials of widths: the loss of the cut and refitted network on some samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from gfs_dist.networks.measure.inputs import Batch, joined
from gfs_dist.networks.measure.threads import one_thread_each
from gfs_dist.pruning.calibration.layer_sites import Site
from gfs_dist.pruning.calibration.staged_run import Results, advance, keep, make_stages
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.repair.fit_rule import STREAM, FitRule
from gfs_dist.pruning.repair.sweep import NetworkPair
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.pruning.widths.fitted_front import FittedFront, compared

Value = TypeVar("Value")

JOINED = {"cuda": 4}
"""Chunks of samples that are one batch on a device: a GPU has little to do with one."""


@dataclass(frozen=True)
class WidthTrial:
    """Cuts, refits the consumers once, and compares outputs with the dense network's.

    The value is ``sum |z - y|^2 / sum |z|^2`` over the compared samples, ``z`` the dense network's
    outputs (of classes: before the softmax) and ``y`` the cut one's; no labels are needed. It
    tells two networks apart where divergences of the softmax do not, which few samples decide:
    on ResNet20 at 35 % of its inner multiply-adds one layer's step changed it by 9.5 standard
    errors on 768 images, the Kullback-Leibler divergence by 2.5. Over layers' errors it nearly
    adds up.

    An item is a network's channels and an *anchor's*: where the two are the same in front, that
    is run and fitted once for all items with this anchor that come in the order of layers. The
    value does not depend on it.

    Attributes:
        workspace, structure: of the network.
        sites: of the consumers.
        fitted: chunks that consumers are refitted on.
        compared: chunks whose outputs are compared; others, where there are enough, since a fit
            is better on its own samples than it is.
        rule: of the fits; all of them aim at the stream.
    """

    workspace: Workspace
    structure: Structure
    sites: tuple[Site, ...]
    fitted: tuple[int, ...]
    compared: tuple[int, ...]
    rule: FitRule = STREAM

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> float:
        """The loss of the network that keeps these channels."""
        kept, anchor = item
        front = _Held.of(self, device).front(kept, anchor, tick)
        while front.place < len(front.pair.sites):
            front.advance(tick)
        known = _dense_outputs(self, device)
        parts = [
            squares(*both)
            for wanted, found in zip(known, front.outputs(), strict=True)
            for both in zip(wanted, found, strict=True)
        ]
        return sum(apart for apart, _ in parts) / (sum(whole for _, whole in parts) or 1.0)

    def start(self, kept: KeptChannels, device: torch.device) -> FittedFront:
        """A network before its first site."""
        (name,) = self.workspace.dense(device).gfs_inputs
        parts = [*batches(self.fitted, device), *batches(self.compared, device)]
        inputs = {place: {name: self.x(chunks, device)} for place, chunks in enumerate(parts)}
        return FittedFront(self.pair(kept, device), inputs, len(batches(self.fitted, device)))

    def pair(self, kept: KeptChannels, device: torch.device) -> NetworkPair:
        """The dense network and the cut one, before any fit."""
        known = _dense_results(self, device)
        dense = self.workspace.dense(device)
        return NetworkPair.of_cut(
            dense, self.structure, kept, self.sites, self.rule, dense_results=known
        )

    def changed(self, one: KeptChannels, other: KeptChannels) -> set[str]:
        """Modules that do not keep the same channels."""
        return {
            part.module
            for layer in self.structure.layers
            if one.candidates.get(layer.name) != other.candidates.get(layer.name)
            for part in (*layer.cut_slices, *layer.consumers)
        }

    def x(self, chunks: Sequence[int], device: torch.device) -> Batch:
        """Inputs of a few chunks, one below the other; read when they are needed."""
        return joined([self.workspace.x(chunk) for chunk in chunks]).to(device)


@dataclass
class _Held:
    """The front that the last trials of this process branched from, and its network's channels."""

    task: WidthTrial
    device: torch.device
    kept: KeptChannels | None = None
    held: FittedFront | None = None

    @classmethod
    @functools.lru_cache(maxsize=1)
    def of(cls, task: WidthTrial, device: torch.device) -> _Held:
        return cls(task, device)

    def front(
        self, kept: KeptChannels, anchor: KeptChannels, tick: Callable[[], None]
    ) -> FittedFront:
        """A network of the kept channels, fitted as far as it is the anchor's."""
        task, device = self.task, self.device
        if kept == anchor:  # it ends a round: nothing is held for long
            self.held = None
            return task.start(kept, device)
        pair, changed = task.pair(kept, device), task.changed(kept, anchor)
        held = self.held if self.kept == anchor else None
        if held is None or held.place > held.shares(pair, changed):
            held = task.start(anchor, device)
        self.kept, self.held = anchor, held
        for _ in range(held.place, held.shares(pair, changed)):
            held.advance(tick)
        return held.branch(pair)


def batches(chunks: Sequence[int], device: torch.device) -> list[Sequence[int]]:
    """Which chunks go through the network together."""
    count = JOINED.get(device.type, 1)
    return [chunks[at : at + count] for at in range(0, len(chunks), count)]


@functools.lru_cache(maxsize=1)
def _dense_outputs(task: WidthTrial, device: torch.device) -> list[list[Tensor]]:
    """The dense network's outputs on the samples that are compared."""
    dense = task.workspace.dense(device)
    return _on_batches(task, task.compared, device, lambda x: compared(dense(x), x))


@functools.lru_cache(maxsize=1)
def _dense_results(task: WidthTrial, device: torch.device) -> dict[int, Results]:
    """The dense network's streams on the fitted samples, which all trials are aimed at."""
    network = task.workspace.dense(device)
    stages = make_stages(network, [frozenset([site.stream]) for site in task.sites])

    def streams(x: Batch) -> Results:
        found: Results = {}
        results: Results = {network.gfs_inputs[0]: x}
        for stage in stages:
            results = advance(network, stage, results)
            found |= keep(results, stage.asked)
            results = keep(results, stage.live)
        return found

    return dict(enumerate(_on_batches(task, task.fitted, device, streams)))


def _on_batches(
    task: WidthTrial, chunks: Sequence[int], device: torch.device, run: Callable[[Batch], Value]
) -> list[Value]:
    """Results of ``run`` for each batch of inputs, several at a time."""

    def on_batch(batch: Sequence[int]) -> Value:
        with torch.no_grad():
            return run(task.x(batch, device))

    with one_thread_each() as pool:
        return list(pool.map(on_batch, batches(chunks, device)))


def squares(dense: Tensor, small: Tensor) -> tuple[float, float]:
    """Squared difference of outputs, and the dense ones' squares, summed in float64.

    Outputs that are not finite are infinitely far: NaN would compare as less than anything.
    """
    apart, whole = (part.abs().double().square().sum() for part in (dense - small, dense))
    return float(apart) if torch.isfinite(apart) else math.inf, float(whole)
