"""The dense network once over all samples: second moments of what each consumer reads.

A layer's candidates and its target then come from the same inputs, so that the target is a linear
map of them and no cross moment has to be summed: with the dense weights ``V0``, ``B = A V0``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.pruning.calibration.activation_store import Environments
from gfs_dist.pruning.calibration.layer_sites import Site
from gfs_dist.pruning.calibration.moments import Geometry, Sums
from gfs_dist.pruning.calibration.staged_run import advance, keep, make_stages, output_names
from gfs_dist.pruning.repair.least_squares import OutputScale
from gfs_dist.pruning.repair.sweep import DENSE

MIN_POSITIONS = 384
"""Products of fewer positions take no less to be added up than to be formed."""

SMALL_SUMS = ("count", "input_mean", "inside", "target_mean", "energy")
"""Names of a part's sums, but for the products of patches, which are large."""

NOISE = 2.0**-50
"""Of its mean: how far a stream that does not vary may be seen to do so."""


@dataclass(frozen=True)
class Patches:
    """What a layer reads, over samples and positions, but for products.

    Attributes:
        geometry: how.
        mean: (inputs,).
        inside: positions at which each input lies inside the image (inputs,).
        positions: ``n``.
    """

    geometry: Geometry
    mean: Tensor
    inside: Tensor
    positions: float

    @property
    def kernel(self) -> int:
        """Inputs of a channel."""
        return math.prod(self.geometry.kernel)

    def rows(self, channels: Sequence[int]) -> Tensor:
        """Places of some channels' inputs, channel by channel."""
        first = torch.tensor(channels, dtype=torch.int64)[:, None] * self.kernel
        return (first + torch.arange(self.kernel)).flatten()

    def inputs(self, products: Sequence[Tensor], own: Sequence[int]) -> Tensor:
        """Rows of moments about the mean of own channels, in memory of their own.

        Args:
            products: summed over samples: all terms of a window, or else the rows asked for, in
                rising order.
        """
        rows = self.rows(own)
        if self.geometry.window:
            raw = self.geometry.window.assemble(products, own)
            return raw.addr_(self.mean[rows], self.mean, alpha=-self.positions)
        return torch.cat(list(products))[rows.argsort().argsort()]


@dataclass(frozen=True)
class Reading:
    """What one consumer makes of its patches in the dense network.

    Attributes:
        patches: that it reads.
        weights: ``V0`` (inputs, outputs), in units of the stream.
        centred: whether an intercept takes part.
        variance: of the stream, summed over its channels and positions: what an error is
            compared with.
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
        self._asked = [frozenset([site.source, site.stream]) for site in sites]
        self._asked.append(output_names(network))
        self._stages = make_stages(network, self._asked)

    def sums(self, stage: int, chunks: Sequence[int], envs: Environments) -> Sums:
        """Sums of a few chunks at one site: of the stream as target, and of the patches.

        Raises:
            NonFiniteError: names the layer.
        """
        site = self.sites[stage]
        geometry = Geometry.of(self.network.get_submodule(site.module))
        names = frozenset([site.source, site.stream])
        found = [keep(self._enter(stage, chunk, envs), names) for chunk in chunks]
        source, stream = (
            geometry.joined([results[name] for results in found])
            for name in (site.source, site.stream)
        )
        sums = {**geometry.target_sums(stream), **geometry.input_sums(source)}
        for kind, name, mean in (
            ("input", site.source, "input_mean"),
            ("output", site.stream, "target_mean"),
        ):
            if not torch.isfinite(sums[mean]).all():
                sample, chunk = _first([results[name] for results in found], chunks)
                raise NonFiniteError(
                    f"layer {site.module!r}: its {kind} holds NaN or infinity, first at sample "
                    f"{sample} of chunk {chunk}"
                )
        return sums

    def run_group(self, stage: int, chunks: Sequence[int], samples: int) -> list[Sequence[int]]:
        """Chunks of ``samples`` each, as :meth:`sums` is best given them."""
        count = -(-MIN_POSITIONS // (samples * self.sites[stage].positions))
        return [chunks[at : at + count] for at in range(0, len(chunks), count)]

    def outputs(self, chunk: int, envs: Environments) -> Tensor:
        """The network's output, after the last site."""
        (name,) = output_names(self.network)
        found: Tensor = self._enter(len(self.sites), chunk, envs)[name]
        return found

    def reading(self, stage: int, sums: Mapping[str, Tensor]) -> Reading:
        """What sums over all samples, but for the products, say of one site."""
        site = self.sites[stage]
        mean, inside, count = sums["input_mean"], sums["inside"], float(sums["count"])
        variance = float(sums["energy"])
        noise = count * float((NOISE * sums["target_mean"]).square().sum())
        module = self.network.get_submodule(site.module)
        scaling = OutputScale.of(self.network, site)
        flat = module.get_parameter("weight").detach().cpu().double().flatten(1).T
        return Reading(
            Patches(Geometry.of(module), mean, inside.repeat(len(mean) // len(inside)), count),
            flat * scaling.scale,
            scaling.has_offset,
            variance if variance > noise else 0.0,
        )

    def _enter(self, stage: int, chunk: int, envs: Environments) -> dict[str, Tensor]:
        results = advance(self.network, self._stages[stage], envs.load(DENSE, stage, chunk))
        envs.save(DENSE, stage + 1, chunk, keep(results, self._stages[stage].live))
        return results


def _first(values: Sequence[Tensor], chunks: Sequence[int]) -> tuple[int, int]:
    for part, chunk in zip(values, chunks, strict=True):
        bad = (~torch.isfinite(part)).flatten(1).any(1)
        if bad.any():
            return int(bad.nonzero()[0]), chunk
    raise AssertionError("sums of finite values are finite in float64")
