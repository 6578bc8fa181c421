"""A sweep whose passes over the samples are divided among ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.pruning.calibration.layer_sites import Site
from gfs_dist.pruning.calibration.moments import Sums, sum_chunks
from gfs_dist.pruning.calibration.staged_run import DENSE, SMALL, FileStore
from gfs_dist.pruning.calibration.workspace import CPU, Workspace, read_sums
from gfs_dist.pruning.repair.sweep import NetworkPair, Visit, sweep
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.runtime import Runtime


@dataclass(frozen=True)
class SweepTask:
    """One visit of a sweep on one part of the samples.

    Attributes:
        structure: of the workspace's network.
        sites: in the order in which they are fitted.
        kept: channels of the smaller network.
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
        """The file of the sums of ``item``: visit, fits made so far, and part."""
        visit, fits, part = Visit(*item[0]), item[1], item[2]
        store = FileStore(self.folder, device)
        pair = self._pair_after(fits, device)
        chunks = self.workspace.parts()[part]
        if visit == Visit(0, False):
            for chunk in chunks:
                start = {pair.dense.gfs_inputs[0]: self.workspace.x(chunk)}
                for network in (DENSE, SMALL):
                    store.save(network, 0, chunk, start)
        sums = sum_chunks(lambda chunk: pair.sums(visit, chunk, store), chunks, tick)
        path = self.folder / f"sums_{visit.stage:04d}_{fits:05d}_{part:02d}.safetensors"
        checkpoint.write_tensors(path, sums, durable=False)
        return str(path)

    @property
    def folder(self) -> Path:
        """Where this sweep's files are."""
        return self.workspace.subfolder(self.name)

    def fit_file(self, number: int) -> Path:
        """The tensors that one fit changed."""
        return self.folder / f"fit_{number:05d}.safetensors"

    def make_pair(self, device: torch.device = CPU) -> NetworkPair:
        """The networks before the first fit."""
        dense = self.workspace.dense(device)
        return NetworkPair.of_cut(dense, self.structure, self.kept, self.sites, self.target)

    def _pair_after(self, fits: int, device: torch.device) -> NetworkPair:
        fitted = _fitted(self.folder)
        if fitted.pair is None or fitted.fits > fits:
            fitted.pair, fitted.fits = self.make_pair(device), 0
        for number in range(fitted.fits, fits):
            _apply_fit(fitted.pair.small, self.fit_file(number))
        fitted.fits = fits
        return fitted.pair


@dataclass
class _Fitted:
    """The networks of the sweep that this process last worked on, after some fits."""

    folder: Path
    pair: NetworkPair | None = None
    fits: int = 0


@functools.lru_cache(maxsize=1)
def _fitted(folder: Path) -> _Fitted:
    return _Fitted(folder)


def _write_fit(network: GraphNetwork, site: Site, path: Path) -> None:
    tensors = {
        f"{name}.{key}": value
        for name in (site.module, site.norm)
        if name is not None
        for key, value in network.get_submodule(name).state_dict().items()
        if value.is_floating_point()
    }
    checkpoint.write_tensors(path, tensors, durable=False)


@torch.no_grad()
def _apply_fit(network: GraphNetwork, path: Path) -> None:
    own = network.state_dict()
    for name, value in load_file(path).items():
        own[name].copy_(value)


def run_sweep(
    task: SweepTask, runtime: Runtime, on_site: Callable[[int], None] = lambda _: None
) -> GraphNetwork:
    """The smaller network with all its sites fitted, one after another."""
    pair, parts = task.make_pair(), range(len(task.workspace.parts()))
    store, fits = FileStore(task.folder), 0

    def sum_up(visit: Visit) -> Sums:
        found = runtime.map(task, [(tuple(visit), fits, part) for part in parts])
        files = [Path(path) for path in found.values]
        sums = read_sums(files)
        for file in files:
            file.unlink()
        return sums

    def on_fit(stage: int) -> None:
        nonlocal fits
        _write_fit(pair.small, pair.sites[stage], task.fit_file(fits))
        fits += 1

    def done(stage: int) -> None:
        for network in (DENSE, SMALL):
            store.drop(network, stage)
        on_site(stage)

    sweep(pair, sum_up, on_fit=on_fit, on_site=done)
    return pair.small
