"""One sweep from front to back: every site of a smaller network fitted to the dense one.

The two networks go through the same samples side by side. A site of the smaller one reads what
the sites before it, already fitted, make of the samples; it is aimed at the dense network's
stream less what the smaller network's other summand brings, so that errors made before are
mended rather than piled up (DESIGN: dense-stream target). Where nothing but ReLUs reads the
stream, all values below zero are alike: the target is then moved to the fit's own value wherever
both are negative, and the fit repeated (Zhang et al. 2015, arXiv 1505.06798, in closed form).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks.graph_network import GraphNetwork
from gfs_dist.pruning.layerwise.environments import Environments, to_device
from gfs_dist.pruning.layerwise.moments import Geometry, Sums, add
from gfs_dist.pruning.layerwise.sites import Site
from gfs_dist.pruning.layerwise.track import (
    Results,
    Stage,
    advance,
    keep_live,
    make_stages,
    output_names,
)

TARGETS = ("stream", "output", "recomputed")


@dataclass(frozen=True)
class Aim:
    """What sites are fitted to.

    Attributes:
        target: ``stream``: the dense network's residual stream; ``output``: the dense layer's own
            output; ``recomputed``: what the dense weights make of the smaller network's inputs.
        repeats: fits after the first where the stream is rectified.
    """

    target: str = "stream"
    repeats: int = 3


@dataclass
class Pair:
    """A dense network and a smaller one of the same steps, in the same stages.

    Attributes:
        dense, small: recorded networks.
        sites: of both, in the order in which they are fitted.
        outputs: for a module that lost outputs, those that it kept.
        inputs: for a module that lost inputs, those that it kept.
    """

    dense: GraphNetwork
    small: GraphNetwork
    sites: Sequence[Site]
    outputs: Mapping[str, Tensor]
    aim: Aim = field(default_factory=Aim)

    def __post_init__(self) -> None:
        last = [output_names(self.dense)]
        self.dense_stages = make_stages(self.dense, [*(self._asked_dense(s) for s in self.sites), *last])
        self.small_stages = make_stages(self.small, [*(_asked_small(s) for s in self.sites), *last])

    def _asked_dense(self, site: Site) -> frozenset[str]:
        return frozenset([site.output if site.norm is None else _normed(self.dense, site)]) if (
            self.aim.target != "stream"
        ) else frozenset([site.stream])

    def kept(self, site: Site, values: Tensor) -> Tensor:
        """Outputs of the dense site that the smaller one still has."""
        kept = self.outputs.get(site.module)
        if kept is None:
            return values
        return values.index_select(1 if values.ndim == 4 else -1, kept.to(values.device))


def _asked_small(site: Site) -> frozenset[str]:
    return frozenset([site.source, *([site.other] if site.other else [])])


def _normed(network: GraphNetwork, site: Site) -> str:
    return next(s.name for s in network.gfs_program if s.target == site.norm)
