"""Weights of one site by least squares on its moments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gfs_dist.networks.graph_network import GraphNetwork
from gfs_dist.pruning.layerwise.moments import Moments
from gfs_dist.pruning.layerwise.sites import Site

DAMPING = 1e-4
"""Of the mean diagonal of ``A``. From 1e-5 to 1e-3 accuracy changes by less than 0.02 points
(ResNet20, CIFAR-10, 1,024 images)."""

ROUNDING = 1e-6
"""Of the mean diagonal of the uncentred ``A``: what float32 products leave uncertain of it."""

DEAD = 1e-6
"""Outputs whose batch norm scales them by less than this share of the largest are left alone."""


@dataclass(frozen=True)
class Scaling:
    """What a site's batch norm does: ``stream = scale (W x) + offset``.

    Attributes:
        scale: (outputs,), 1 without a norm.
        has_offset: whether an intercept can be stored: in the norm, or in the layer's bias.
    """

    scale: Tensor
    has_offset: bool

    @classmethod
    def of(cls, network: GraphNetwork, site: Site) -> Scaling:
        """Read from the network."""
        module = network.get_submodule(site.module)
        if site.norm is None:
            weight = module.get_parameter("weight").detach()
            ones = torch.ones(len(weight), dtype=torch.float64, device=weight.device)
            return cls(ones, module.bias is not None)
        norm = network.get_submodule(site.norm)
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        assert norm.running_var is not None
        variance = norm.running_var.double() + norm.eps
        return cls(norm.weight.detach().double() / variance.sqrt(), True)


class Fit:
    """Solves for the weights of one site, again for each new target.

        V = V0 + (A + lambda I)^-1 (B - A V0),    offset = mean t - V' mean x

    in units of the stream, pulled towards the present weights ``V0`` by
    ``lambda = DAMPING mean diag A`` (and a trace against rounding). With an intercept, ``A`` and
    ``B`` are centred.

    Args:
        network: whose site is fitted, in place.
        site: which.
        moments: of its inputs, and of its inputs with the target; where the network is.
    """

    def __init__(self, network: GraphNetwork, site: Site, moments: Moments) -> None:
        self.network, self.site = network, site
        self.scaling = Scaling.of(network, site)
        self._raw = moments
        self._moments = moments.centred() if self.scaling.has_offset else moments
        inputs = self._moments.inputs
        damping = DAMPING * float(inputs.diagonal().mean())
        damping = damping + ROUNDING * float(moments.inputs.diagonal().mean()) or 1.0
        damped = inputs.clone()
        damped.diagonal().add_(damping)
        self._factor = torch.linalg.cholesky(damped)
        weight = network.get_submodule(site.module).get_parameter("weight")
        self._shape = weight.shape
        self._start = weight.detach().double().flatten(1).T * self.scaling.scale

    def solve(self, target: Moments | None = None) -> None:
        """Fit to the target of the moments given at first, or to another one's ``B`` and ``r``."""
        raw, inputs = target or self._raw, self._moments.inputs
        n, s = max(self._raw.positions, 1.0), self._raw.input_sum
        cross = raw.target
        if self.scaling.has_offset:
            cross = cross - torch.outer(s, raw.target_sum) / n
        found = self._start + torch.cholesky_solve(cross - inputs @ self._start, self._factor)
        self._write(found, (raw.target_sum - found.T @ s) / n)

    @torch.no_grad()
    def _write(self, found: Tensor, offset: Tensor) -> None:
        """Weights and intercept to where the network keeps them; dead outputs stay."""
        module = self.network.get_submodule(self.site.module)
        weight, scale = module.get_parameter("weight"), self.scaling.scale
        alive = scale.abs() > DEAD * float(scale.abs().max())
        scale = scale.where(alive, 1.0)
        weight[alive] = (found / scale).T.reshape(self._shape).to(weight)[alive]
        if not self.scaling.has_offset:
            return
        if self.site.norm is None:
            assert isinstance(module.bias, Tensor)
            module.bias[alive] = offset.to(module.bias)[alive]
            return
        norm = self.network.get_submodule(self.site.norm)
        assert isinstance(norm.running_mean, Tensor)
        bias = module.bias.double() if isinstance(module.bias, Tensor) else 0.0
        mean = bias - (offset - norm.get_parameter("bias").double()) / scale
        norm.running_mean[alive] = mean.to(norm.running_mean)[alive]
