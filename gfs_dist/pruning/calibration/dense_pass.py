"""The dense network once over all samples: second moments of what each consumer reads.

A layer's candidates and its target come from the same inputs, so that the target is a linear map
of them and no cross moment has to be summed: with the dense weights ``V0``, ``B = A V0``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfs_dist.errors import NonFiniteError
from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.inputs import Batch, real_rows
from gfs_dist.networks.models.layer_kinds import weight_matrix
from gfs_dist.pruning.calibration.layer_sites import Site
from gfs_dist.pruning.calibration.moments import Geometry, Sums, spread
from gfs_dist.pruning.calibration.staged_run import (
    DENSE,
    ActivationStore,
    FileStore,
    HeldStore,
    Results,
    advance,
    keep,
    make_stages,
    output_names,
    run_to,
    with_inputs,
)
from gfs_dist.pruning.calibration.workspace import Workspace, sum_parts
from gfs_dist.pruning.repair.least_squares import OutputScale
from gfs_dist.runtime import Runtime

SMALL_SUMS = ("count", "input_mean", "inside", "target_mean", "energy")
"""Names of all sums but the products of patches, which are large."""

NOISE = 2.0**-50
"""A stream's deviations below this share of its mean are rounding."""


@dataclass(frozen=True)
class Patches:
    """The patches that a layer reads, over samples and positions, except for products.

    Attributes:
        geometry: of the layer.
        mean: (inputs,).
        inside: positions at which each input lies inside the image (inputs,).
        positions: ``n``.
    """

    geometry: Geometry
    mean: Tensor
    inside: Tensor
    positions: float

    def rows(self, channels: Sequence[int]) -> Tensor:
        """Places of some channels' inputs, channel by channel."""
        kernel = math.prod(self.geometry.kernel)
        first = torch.tensor(channels, dtype=torch.int64)[:, None] * kernel
        return (first + torch.arange(kernel)).flatten()

    def moments(
        self, products: Sequence[Tensor], own: Sequence[int], every: Sequence[int], centred: bool
    ) -> tuple[Tensor, Tensor]:
        """``sum (x - mean x)(x - mean x)'``, rows of own channels, or about zero.

        Args:
            products: summed over samples: all of a window, or else the rows of own channels, in
                rising order.
            own, every: channels of the rows and of the columns; own ones are among these.
            centred: whether moments are about the mean.

        Returns:
            The rows, in memory of their own, and the spread of their inputs.
        """
        mean, rows, columns = self.mean, self.rows(own), self.rows(every)
        if self.geometry.window:
            inputs = self.geometry.window.assemble(products, own)
            inputs.addr_(mean[rows], mean, alpha=-self.positions)
        else:
            inputs = torch.cat(list(products))[rows.argsort().argsort()]
        variances = spread(
            inputs[torch.arange(len(rows)), rows], mean[rows], self.inside[rows], self.positions
        )
        if not torch.equal(columns, torch.arange(inputs.shape[1])):
            inputs = inputs[:, columns]
        if not centred:
            inputs.addr_(mean[rows], mean[columns], alpha=self.positions)
        if self.geometry.groups > 1:
            size = len(mean) // self.geometry.groups
            inputs = inputs.where((rows // size)[:, None] == columns // size, 0.0)
        return inputs, variances


@dataclass(frozen=True)
class Reading:
    """How one consumer reads its patches in the dense network.

    Attributes:
        patches: that it reads.
        weights: ``V0`` (inputs, outputs), in units of the stream.
        centred: whether an intercept takes part.
        variance: of the stream, summed over its channels and positions: the unit of errors.
    """

    patches: Patches
    weights: Tensor
    centred: bool
    variance: float


class DensePass:
    """Stages of the dense network, one for each consumer.

    Args:
        network: recorded.
        sites: of the consumers.
    """

    def __init__(self, network: GraphNetwork, sites: Sequence[Site]) -> None:
        self.network, self.sites = network, list(sites)
        asked = [with_inputs(network, site.source, site.stream) for site in sites]
        self._stages = make_stages(network, [*asked, output_names(network)])

    def sums(self, stage: int, chunks: Sequence[int], store: ActivationStore) -> Sums:
        """Sums of a few chunks at one site: of the stream as target, and of the patches.

        Raises:
            NonFiniteError: names the layer.
        """
        site = self.sites[stage]
        geometry = Geometry.of(self.network.get_submodule(site.module))
        asked = self._stages[stage].asked
        found = []
        for chunk in chunks:
            results = advance(self.network, self._stages[stage], store.load(DENSE, stage, chunk))
            store.save(DENSE, stage + 1, chunk, keep(results, self._stages[stage].live))
            found.append(keep(results, asked))
        sources, streams = (
            [real_rows(r[name], r.get(self.network.gfs_inputs[0])) for r in found]
            for name in (site.source, site.stream)
        )
        sums = geometry.target_sums(geometry.joined(streams))
        sums |= geometry.input_sums(geometry.joined(sources))
        for kind, values, mean in (
            ("input", sources, "input_mean"),
            ("output", streams, "target_mean"),
        ):
            if not torch.isfinite(sums[mean]).all():
                sample, chunk = _first_not_finite(values, chunks)
                raise NonFiniteError(
                    f"layer {site.module!r}: its {kind} holds NaN or infinity, first at sample "
                    f"{sample} of chunk {chunk}"
                )
        return sums

    def results(self, stage: int, x: Batch) -> Results:
        """Results before a stage."""
        return run_to(self.network, self._stages[:stage], x)

    def reading(self, stage: int, sums: Mapping[str, Tensor]) -> Reading:
        """How the consumer at one site reads its patches.

        Args:
            sums: over all samples; those of ``SMALL_SUMS``.
        """
        site = self.sites[stage]
        mean, inside, count = sums["input_mean"], sums["inside"], float(sums["count"])
        variance = float(sums["energy"])
        noise = count * float((NOISE * sums["target_mean"]).square().sum())
        module = self.network.get_submodule(site.module)
        scaling = OutputScale.of(self.network, site)
        flat = weight_matrix(module).detach().cpu().double().T
        return Reading(
            Patches(Geometry.of(module), mean, inside.repeat(len(mean) // len(inside)), count),
            flat * scaling.scale,
            scaling.has_offset,
            variance if variance > noise else 0.0,
        )


def _first_not_finite(values: Sequence[Tensor], chunks: Sequence[int]) -> tuple[int, int]:
    """Sample and chunk of the first value that is NaN or infinite."""
    for part, chunk in zip(values, chunks, strict=True):
        bad = (~torch.isfinite(part)).flatten(1).any(1)
        if bad.any():
            return int(bad.nonzero()[0]), chunk
    raise AssertionError("sums of finite values are finite in float64")


@dataclass(frozen=True)
class DenseTask:
    """One stage of the dense pass on one share of the samples.

    Attributes:
        sites: of the consumers, in order.
    """

    workspace: Workspace
    sites: tuple[Site, ...]

    @property
    def folder(self) -> Path:
        return self.workspace.subfolder("dense_pass")

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> str:
        """The file of the sums of ``item``: stage, and place among so many shares."""
        stage, place, count = item
        dense, store = _dense_pass(self, device)
        parts = self.workspace.shares(count)[place]
        batches = self.workspace.batches_of(parts, self.sites[stage].positions)
        sums = sum_parts(lambda batch: dense.sums(stage, batch, store), batches, tick)
        path = self.folder / f"sums_{stage:04d}_{place:02d}.safetensors"
        checkpoint.write_tensors(path, sums, durable=False)
        return str(path)


@functools.lru_cache(maxsize=1)
def _dense_pass(task: DenseTask, device: torch.device) -> tuple[DensePass, HeldStore]:
    dense = DensePass(task.workspace.dense(device), task.sites)

    def make(_: str, stage: int, chunk: int) -> Results:
        return dense.results(stage, task.workspace.x(chunk).to(device))

    return dense, HeldStore(task.folder, device, make)


def run_dense_pass(
    task: DenseTask, runtime: Runtime, on_site: Callable[[int, Sequence[Path]], None]
) -> None:
    """Run all stages; ``on_site`` gets the files of each site's sums, in order of the sites.

    The files are removed after it.
    """
    count = len(task.workspace.shares(runtime.num_ranks))
    for stage in range(len(task.sites)):
        items = [(stage, place, count) for place in range(count)]
        files = [Path(path) for path in runtime.map(task, items, keep=True).values]
        FileStore(task.folder).drop(DENSE, stage)
        on_site(stage, files)
        for file in files:
            file.unlink()
    _dense_pass.cache_clear()  # what this process holds
