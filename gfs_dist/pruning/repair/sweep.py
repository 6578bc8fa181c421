"""One sweep from front to back: every site of a smaller network fitted to the dense one.

The two networks go through the same samples side by side. A site of the smaller one reads what
the sites before it, already fitted, make of the samples; it is aimed at the dense network's
stream less the smaller network's other summand, so that earlier errors are corrected, not
accumulated. Where nothing but ReLUs reads the stream, all values below zero are equivalent: the
target is then moved to the fit's own value wherever both are negative, and the fit repeated (the
idea of Zhang et al. 2015, arXiv 1505.06798).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from gfs_dist.errors import NonFiniteError
from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.inputs import real_rows
from gfs_dist.networks.measure.threads import one_thread
from gfs_dist.networks.models.layer_kinds import num_inputs
from gfs_dist.pruning.calibration.layer_sites import Site, ancestors
from gfs_dist.pruning.calibration.moments import Geometry, Moments, Sums, add_halves
from gfs_dist.pruning.calibration.staged_run import (
    DENSE,
    SMALL,
    ActivationStore,
    FileStore,
    HeldStore,
    Results,
    advance,
    make_stages,
    output_names,
    run_to,
    with_inputs,
)
from gfs_dist.pruning.calibration.workspace import CPU, Workspace, sum_parts
from gfs_dist.pruning.repair.fit_rule import STREAM, FitRule
from gfs_dist.pruning.repair.least_squares import Fit
from gfs_dist.pruning.repair.reselect import Reselection
from gfs_dist.pruning.smaller import KeptChannels, make_smaller
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.runtime import Runtime

REPEATS = 3
"""Fits after the first where the stream is rectified. On ResNet20 at 35 % of its inner
multiply-adds: none 80.7 %, one to three 81.1 to 82.3 %, six 82.9 % (CIFAR-10, no fine-tuning)."""

SMALL_BYTES = 2**20
"""Of sums that travel as they are; others lie in a file."""


class Visit(NamedTuple):
    """One pass over the samples: at which site, and whether its fit is there already."""

    stage: int
    is_repeat: bool


@dataclass
class NetworkPair:
    """A dense network and a smaller one of the same steps, run in the same stages.

    Attributes:
        dense, small: recorded networks.
        sites: of both, in the order in which they are fitted; those that nothing removed can
            reach are left out.
        outputs: for a module that lost outputs, the numbers of those that it kept.
        rule: of the fits.
        dense_results: the dense network's streams of each chunk, where they are known.
        changed: modules that lose outputs later, besides those of ``outputs``.
        stages: of each network, one for each site; of the smaller one also that of its outputs.
    """

    dense: GraphNetwork
    small: GraphNetwork
    sites: Sequence[Site]
    outputs: Mapping[str, Tensor]
    rule: FitRule = STREAM
    dense_results: Mapping[int, Results] | None = None
    changed: Collection[str] = ()

    def __post_init__(self) -> None:
        # Sites whose input or summand depends on a pruned module.
        program, above = self.small.gfs_program, ancestors(self.small)
        changing = {*self.outputs, *self.changed}
        changed = {s.name for s in program if s.kind == "module" and s.target in changing}
        self.sites = [
            site
            for site in self.sites
            if changed & (above[site.source] | above[site.other or site.source])
        ]
        if self.rule.target == "output":
            self.sites = [site.alone() for site in self.sites]
        aims = [with_inputs(self.dense, site.stream) for site in self.sites]
        reads = [
            with_inputs(self.small, site.source, *([site.other] if site.other else []))
            for site in self.sites
        ]
        to_output = [*reads, output_names(self.small)]
        self.stages = {
            DENSE: make_stages(self.dense, aims),
            SMALL: make_stages(self.small, to_output),
        }
        self._tails = [
            make_stages(self.small, [read, aim])[1] for read, aim in zip(reads, aims, strict=True)
        ]

    @classmethod
    def of_cut(
        cls,
        dense: GraphNetwork,
        structure: Structure,
        kept: KeptChannels,
        sites: Sequence[Site],
        rule: FitRule = STREAM,
        dense_results: Mapping[int, Results] | None = None,
        whole: Collection[str] = (),
    ) -> NetworkPair:
        """A dense network and a copy cut to the kept channels, but for ``whole`` layers."""
        now = kept.without(whole)
        small, outputs = make_smaller(dense, structure, now), now.outputs(structure, dense)
        changed = kept.outputs(structure, dense).keys()
        return cls(dense, small, sites, outputs, rule, dense_results, changed)

    def results(self, name: str, visit: Visit, chunk: int, store: ActivationStore) -> Results:
        """Results of one network that a visit needs; run and stored at the first one."""
        if name == DENSE and self.dense_results is not None:
            return self.dense_results[chunk]
        if visit.is_repeat:
            return store.load(name, visit.stage + 1, chunk)
        network = self.dense if name == DENSE else self.small
        stage = self.stages[name][visit.stage]
        results = advance(network, stage, store.load(name, visit.stage, chunk))
        store.save(name, visit.stage + 1, chunk, results)
        return results

    def sums(self, visit: Visit, chunk: int, store: ActivationStore) -> Sums:
        """Moments' sums of one chunk at one site."""
        return self.joint_sums(visit, [chunk], store)

    def joint_sums(self, visit: Visit, chunks: Sequence[int], store: ActivationStore) -> Sums:
        """Moments' sums of a few chunks at one site, formed at once."""
        geometry = Geometry.of(self.small.get_submodule(self.sites[visit.stage].module))
        read, aimed = zip(*(self._at_site(visit, chunk, store) for chunk in chunks), strict=True)
        both = geometry.joined(read), geometry.joined(aimed)
        return geometry.sums(*both, only_target=visit.is_repeat)

    def _at_site(self, visit: Visit, chunk: int, store: ActivationStore) -> tuple[Tensor, Tensor]:
        """What the site reads, and the target of its fit."""
        site = self.sites[visit.stage]
        dense, small = (self.results(name, visit, chunk, store) for name in (DENSE, SMALL))
        aimed = dense[site.stream]
        if (kept := self.outputs.get(site.module)) is not None:
            axis = Geometry.of(self.small.get_submodule(site.module)).axis
            aimed = aimed.index_select(axis, kept.to(aimed.device))
        if visit.is_repeat:
            reached = advance(self.small, self._tails[visit.stage], small)[site.stream]
            aimed = _below_zero(aimed, reached)
        aimed = aimed if site.other is None else aimed - small[site.other]
        x = small.get(self.small.gfs_inputs[0])
        return real_rows(small[site.source], x), real_rows(aimed, x)

    def moments(self, stage: int, sums: Sums) -> Moments:
        """The sums as moments.

        Raises:
            NonFiniteError: names the layer.
        """
        site = self.sites[stage]
        module = self.small.get_submodule(site.module)
        for part in sums.values():
            if not torch.isfinite(part).all():
                raise NonFiniteError(f"layer {site.module!r}: its moments hold NaN or infinity")
        return Geometry.of(module).assemble(sums, num_inputs(module))


def _below_zero(aimed: Tensor, reached: Tensor) -> Tensor:
    """``aimed`` where it is above zero, else ``min(reached, 0)``; ``reached`` is overwritten.

    With masks, ``torch.where`` takes five times as long.
    """
    tiny = torch.finfo(aimed.dtype).tiny
    below: Tensor = torch.ops.aten.threshold_backward(reached.clamp_(max=0), -aimed, -tiny)
    return below.add_(aimed.relu())


def sweep(
    pair: NetworkPair,
    sum_up: Callable[[Visit], Sums],
    *,
    repeats: int = REPEATS,
    choose: Callable[[Site, Moments], tuple[Moments, Tensor | None]] = lambda _, found: (
        found,
        None,
    ),
    on_fit: Callable[[int], None] = lambda _: None,
    on_site: Callable[[int], None] = lambda _: None,
) -> None:
    """Fit all sites of the smaller network, in place.

    Args:
        pair: the networks.
        sum_up: moments' sums of one visit over all samples, in the order of chunks.
        repeats: fits after the first where the stream is rectified.
        choose: by the moments of a site, those that it is fitted to, and the inputs that stay;
            None for all.
        on_fit, on_site: called with the stage after every fit, and after its last one.
    """
    for stage, site in enumerate(pair.sites):
        sums = sum_up(Visit(stage, False))
        with one_thread():
            moments = pair.moments(stage, sums)
            fit = Fit(pair.small, site, *choose(site, moments), pair.rule.damping)
            fit.solve()
        on_fit(stage)
        for _ in range(repeats if site.rectified else 0):
            sums = sum_up(Visit(stage, True))
            with one_thread():
                fit.solve(pair.moments(stage, sums))
            on_fit(stage)
        on_site(stage)


@dataclass(frozen=True)
class SweepTask:
    """One visit of a sweep on one share of the samples.

    Attributes:
        structure: of the workspace's network.
        sites: in the order in which they are fitted.
        kept: channels of the smaller network.
        rule: of the fits.
        name: folder of this sweep in the workspace.
        whole: layers that are cut in the sweep, when it comes to their consumers.
        reselect: whether channels of these are picked again.
    """

    workspace: Workspace
    structure: Structure
    sites: tuple[Site, ...]
    kept: KeptChannels
    rule: FitRule
    name: str
    whole: tuple[str, ...] = ()
    reselect: bool = False

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> Sums | str:
        """The sums of ``item``: visit, fits made so far, and place among so many shares.

        Large ones are in the file whose name is returned.
        """
        stage, is_repeat, fits, place, count = item
        visit = Visit(stage, is_repeat)
        made = self._made_after(fits, device)
        positions = made.pair.sites[stage].positions
        parts = self.workspace.batches_of(self.workspace.shares(count)[place], positions)
        sums = sum_parts(lambda some: made.pair.joint_sums(visit, some, made.store), parts, tick)
        if sum(part.nbytes for part in sums.values()) <= SMALL_BYTES:
            return sums
        path = self.folder / f"sums_{visit.stage:04d}_{fits:05d}_{place:02d}.safetensors"
        checkpoint.write_tensors(path, sums, durable=False)
        return str(path)

    @property
    def folder(self) -> Path:
        return self.workspace.subfolder(self.name)

    def fit_file(self, number: int) -> Path:
        """The tensors that one fit changed."""
        return self.folder / f"fit_{number:05d}.safetensors"

    def make_pair(self, device: torch.device = CPU) -> NetworkPair:
        """The networks before the first fit."""
        dense = self.workspace.dense(device)
        structure, kept, sites = self.structure, self.kept, self.sites
        return NetworkPair.of_cut(dense, structure, kept, sites, self.rule, whole=self.whole)

    def _made_after(self, fits: int, device: torch.device) -> _Made:
        made = _made(self, device)
        for number in range(made.fits, fits):
            own = made.pair.small.state_dict()
            for name, value in load_file(self.fit_file(number)).items():
                own[name].copy_(value)
        made.fits = fits
        return made


@dataclass
class _Made:
    """The networks of the sweep that this process works on after some fits, and their results."""

    pair: NetworkPair
    store: HeldStore
    fits: int = 0


@functools.lru_cache(maxsize=1)
def _made(task: SweepTask, device: torch.device) -> _Made:
    pair = task.make_pair(device)

    def make(name: str, stage: int, chunk: int) -> Results:
        network = pair.dense if name == DENSE else pair.small
        return run_to(network, pair.stages[name][:stage], task.workspace.x(chunk).to(device))

    return _Made(pair, HeldStore(task.folder, device, make))


def run_sweep(
    task: SweepTask, runtime: Runtime, on_site: Callable[[int], None] = lambda _: None
) -> tuple[GraphNetwork, KeptChannels]:
    """The smaller network with all its sites fitted, one after another, and its channels."""
    pair, count = task.make_pair(), len(task.workspace.shares(runtime.num_ranks))
    again = Reselection(
        pair.small, task.structure, task.kept, task.whole, task.rule, repick=task.reselect
    )
    store, fits = FileStore(task.folder), 0

    def sum_up(visit: Visit) -> Sums:
        items = [(*visit, fits, place, count) for place in range(count)]
        found = runtime.map(task, items, keep=True).values
        sums = add_halves(count, lambda place: _read(found[place]))
        for file in found:
            if isinstance(file, str):
                Path(file).unlink()
        return sums

    def on_fit(stage: int) -> None:
        nonlocal fits
        site = pair.sites[stage]
        tensors = {
            f"{name}.{key}": value
            for name in (site.module, site.norm)
            if name is not None
            for key, value in pair.small.get_submodule(name).state_dict().items()
            if value.is_floating_point()
        }
        checkpoint.write_tensors(task.fit_file(fits), tensors, durable=False)
        fits += 1

    def done(stage: int) -> None:
        for network in (DENSE, SMALL):
            store.drop(network, stage)
        on_site(stage)

    sweep(pair, sum_up, choose=again.choose, on_fit=on_fit, on_site=done)
    _made.cache_clear()  # what this process holds
    return again.finish(), again.kept


def _read(found: Sums | str) -> Sums:
    return load_file(found) if isinstance(found, str) else found
