"""Passes over all samples, divided among ranks: the dense one, and those of a sweep."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gfs_dist.files import scratch
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.pruning.calibration.activation_store import InFiles
from gfs_dist.pruning.calibration.dense_pass import DensePass
from gfs_dist.pruning.calibration.layer_sites import Site
from gfs_dist.pruning.calibration.moments import Sums
from gfs_dist.pruning.calibration.workspace import CPU, Workspace, read_sums, write_sums
from gfs_dist.pruning.repair.sweep import DENSE, SMALL, NetworkPair, Visit, sum_chunks, sweep
from gfs_dist.pruning.smaller import KeptChannels, make_smaller
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.runtime import MapResult, Runtime


@dataclass(frozen=True)
class DenseTask:
    """One stage of the dense pass on one part of the samples.

    Attributes:
        workspace: of the network.
        sites: of the consumers, in order.
    """

    workspace: Workspace
    sites: tuple[Site, ...]
    name: str = "dense_pass"

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> str:
        """Sums of ``item``: stage and part."""
        stage, part = item
        dense = _dense_pass(self, device)
        folder = self.workspace.path(self.name, "x").parent
        envs = InFiles(folder, device)
        chunks = self.workspace.groups()[part]
        if stage == 0:
            for chunk in chunks:
                start = {dense.network.gfs_inputs[0]: self.workspace.x(chunk)}
                envs.save(DENSE, 0, chunk, start)
        samples = -(-self.workspace.num_samples // self.workspace.num_chunks)
        batches = dense.run_group(stage, chunks, samples)
        sums = sum_chunks(lambda batch: dense.sums(stage, batch, envs), batches, tick)
        path = folder / f"sums_{stage:04d}_{part:02d}.safetensors"
        write_sums(path, sums)
        return str(path)


@functools.lru_cache(maxsize=1)
def _dense_pass(task: DenseTask, device: torch.device) -> DensePass:
    return DensePass(task.workspace.dense(device), task.sites)


@dataclass(frozen=True)
class SweepTask:
    """One visit of a sweep on one part of the samples.

    Attributes:
        workspace: of the network.
        structure: what can be removed from it.
        sites: in the order in which they are fitted.
        kept: what the smaller network keeps.
        target: see :class:`gfs_dist.pruning.repair.sweep.NetworkPair`.
        name: folder of this sweep in the workspace.
    """

    workspace: Workspace
    structure: Structure
    sites: tuple[Site, ...]
    kept: KeptChannels
    target: str
    name: str

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> str:
        """Sums of ``item``: visit, fits made so far, and part."""
        visit, fits, part = Visit(*item[0]), item[1], item[2]
        envs = InFiles(self.folder, device)
        pair = self._pair_after(fits, device)
        chunks = self.workspace.groups()[part]
        if visit == Visit(0, False):
            for chunk in chunks:
                start = {pair.dense.gfs_inputs[0]: self.workspace.x(chunk)}
                for track in (DENSE, SMALL):
                    envs.save(track, 0, chunk, start)
        sums = sum_chunks(lambda chunk: pair.sums(visit, chunk, envs), chunks, tick)
        path = self.folder / f"sums_{visit.stage:04d}_{fits:05d}_{part:02d}.safetensors"
        write_sums(path, sums)
        return str(path)

    @property
    def folder(self) -> Path:
        """Where this sweep's files are."""
        return self.workspace.path(self.name, "x").parent

    def make_pair(self, device: torch.device = CPU) -> NetworkPair:
        """The networks before the first fit."""
        dense = self.workspace.dense(device)
        small = make_smaller(dense, self.structure, self.kept)
        outputs = self.kept.outputs(self.structure, dense)
        return NetworkPair(dense, small, self.sites, outputs, self.target)

    def _pair_after(self, fits: int, device: torch.device) -> NetworkPair:
        fitted = _fitted(self.folder)
        if fitted.pair is None or fitted.fits > fits:
            fitted.pair, fitted.fits = self.make_pair(device), 0
        for number in range(fitted.fits, fits):
            apply_fit(fitted.pair.small, self.folder / fit_name(number))
        fitted.fits = fits
        return fitted.pair


@dataclass
class _Fitted:
    """What a process holds of the sweep it last worked on."""

    folder: Path
    pair: NetworkPair | None = None
    fits: int = 0


@functools.lru_cache(maxsize=1)
def _fitted(folder: Path) -> _Fitted:
    return _Fitted(folder)


def fit_name(number: int) -> str:
    """The file of one fit."""
    return f"fit_{number:05d}.safetensors"


def write_fit(network: GraphNetwork, site: Site, path: Path) -> None:
    """The tensors that a fit of ``site`` changes."""
    tensors = {
        f"{name}.{key}": value
        for name in (site.module, site.norm)
        if name is not None
        for key, value in network.get_submodule(name).state_dict().items()
        if value.is_floating_point()
    }
    scratch.write_tensors(path, tensors)


@torch.no_grad()
def apply_fit(network: GraphNetwork, path: Path) -> None:
    """Put the tensors of a fit in place."""
    own = network.state_dict()
    for name, value in load_file(path).items():
        own[name].copy_(value)


def run_dense_pass(
    task: DenseTask,
    runtime: Runtime,
    on_site: Callable[[int, Sequence[Path]], None],
    on_map: Callable[[MapResult], None] = lambda _: None,
    start: int = 0,
) -> None:
    """All stages of the dense pass; ``on_site`` is given the files of each site's sums, in order,
    which are removed after it.
    """
    parts = range(len(task.workspace.groups()))
    envs = InFiles(task.workspace.path(task.name, "x").parent)
    for stage in range(start, len(task.sites)):
        found = runtime.map(task, [(stage, part) for part in parts])
        on_map(found)
        envs.drop(DENSE, stage)
        files = [Path(path) for path in found.values]
        on_site(stage, files)
        _remove(files)


def run_sweep(
    task: SweepTask,
    runtime: Runtime,
    on_site: Callable[[int], None] = lambda _: None,
    on_map: Callable[[MapResult], None] = lambda _: None,
) -> GraphNetwork:
    """The smaller network with all its sites fitted, one after another."""
    pair, parts = task.make_pair(), range(len(task.workspace.groups()))
    envs = InFiles(task.folder)
    fits = 0

    def sum_up(visit: Visit) -> Sums:
        found = runtime.map(task, [(tuple(visit), fits, part) for part in parts])
        on_map(found)
        files = [Path(path) for path in found.values]
        sums = read_sums(files)
        _remove(files)
        return sums

    def on_fit(stage: int) -> None:
        nonlocal fits
        write_fit(pair.small, pair.sites[stage], task.folder / fit_name(fits))
        fits += 1

    def done(stage: int) -> None:
        for track in (DENSE, SMALL):
            envs.drop(track, stage)
        on_site(stage)

    sweep(pair, sum_up, on_fit=on_fit, on_site=done)
    return pair.small


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink()
