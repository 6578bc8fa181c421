"""Weights of one site by least squares on its moments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.models.layer_kinds import num_outputs, set_weight_matrix, weight_matrix
from gfs_dist.pruning.calibration.layer_sites import Site
from gfs_dist.pruning.calibration.moments import Moments
from gfs_dist.pruning.repair.fit_rule import DAMPING

FLOAT32, FLOAT64 = 2.0**-23, 2.0**-48
"""What products in float32 leave uncertain of the largest variance, and a factor in float64 of the
trace of ``A``."""

TINY_VARIANCE = 2.0**-960
"""Variances below, of inputs of 1e-145 or less, are as good as none: squares of less vanish."""

DEAD = 1e-6
"""Outputs whose batch norm scales them by less than this share of the largest are left alone, and
so are those that it makes less than this share of the stream, or than a last bit of it: weights
that could correct the stream would be enormous."""


@dataclass(frozen=True)
class OutputScale:
    """The affine map of a site's batch norm: ``stream = scale (W x) + offset``.

    Attributes:
        scale: (outputs,), 1 without a norm.
        reach: deviations that the norm gives its outputs (outputs,), infinite without a norm.
        has_offset: whether an intercept can be stored: in the norm, or in the layer's bias.
    """

    scale: Tensor
    reach: Tensor
    has_offset: bool

    @classmethod
    def of(cls, network: GraphNetwork, site: Site) -> OutputScale:
        module = network.get_submodule(site.module)
        if site.norm is None:
            device = module.get_parameter("weight").device
            ones = torch.ones(num_outputs(module), dtype=torch.float64, device=device)
            return cls(ones, torch.full_like(ones, torch.inf), module.bias is not None)
        norm = network.get_submodule(site.norm)
        assert isinstance(norm, _BatchNorm) and norm.running_var is not None
        variance, reach = norm.running_var.double() + norm.eps, norm.weight.detach().double()
        return cls(reach / variance.sqrt(), reach.abs(), True)

    def alive(self, stream: float, dtype: torch.dtype) -> Tensor:
        """Outputs that can be fitted: (outputs,).

        Args:
            stream: mean square of its deviations.
            dtype: of the stream.
        """
        least = max(DEAD, torch.finfo(dtype).eps) * math.sqrt(stream)
        largest = float(self.scale.abs().max())
        return (self.scale.abs() > DEAD * largest) & (self.reach > least)


def damping(mean: float, largest: float, trace: float, share: float = DAMPING) -> float:
    """Addend of the diagonal of ``A`` in a fit: a share of the variances of the inputs.

    It does not depend on how far the inputs' means are from zero, unless these are so far that
    float64 cannot hold ``A`` well enough to be factored.

    Args:
        mean, largest: of the inputs' variances, see :func:`.moments.spread`.
        trace: of ``A``.
        share: see :class:`FitRule`.
    """
    found = max(share * mean, FLOAT32 * largest, FLOAT64 * trace)
    return found if found > TINY_VARIANCE else 1.0


def damped(inputs: Tensor, spread: Tensor, share: float = DAMPING) -> Tensor:
    """``A + lambda I``, see :func:`damping`; ``spread`` of the same inputs."""
    found, trace = inputs.clone(), float(inputs.diagonal().sum())
    found.diagonal().add_(damping(float(spread.mean()), float(spread.max()), trace, share))
    return found


class Fit:
    """Solves for the weights of one site, again for each new target.

        V = V0 + (A + lambda I)^-1 (B - A V0),    offset = mean t - V' mean x

    in units of the stream, pulled towards the present weights ``V0`` by ``lambda`` (see
    :func:`damping`). With an intercept, ``A`` and ``B`` are moments about the means. Without one
    they are about zero, so that ``V`` has to bring the mean of the target too; the pull is as
    strong as with one.

    Args:
        network: whose site is fitted, in place.
        site: which.
        moments: of its inputs, and of its inputs with the target; where the network is.
        inputs: those that are fitted, sorted; others have weights of zero and keep them. None for
            all.
        damping: share, see :func:`damping`.

    Raises:
        NonFiniteError: ``A`` has no factor; names the layer.
    """

    def __init__(
        self,
        network: GraphNetwork,
        site: Site,
        moments: Moments,
        inputs: Tensor | None = None,
        damping: float = DAMPING,
    ) -> None:
        self.network, self.site = network, site
        self.scaling = OutputScale.of(network, site)
        self._moments = moments
        self._rows = torch.arange(len(moments.input_mean)) if inputs is None else inputs
        every = moments.inputs if self.scaling.has_offset else moments.raw_inputs()
        self._inputs = every if inputs is None else every[inputs][:, inputs]
        added = damped(self._inputs, moments.spread[self._rows], damping)
        self._factor, failed = torch.linalg.cholesky_ex(added)
        if failed:
            raise NonFiniteError(f"layer {site.module!r}: the moments of its input have no factor")
        weight = weight_matrix(network.get_submodule(site.module)).detach()
        self._start = (weight.double().T * self.scaling.scale)[self._rows]

    def solve(self, target: Moments | None = None) -> None:
        """Fit to the target of the moments given at first, or to another one's.

        Raises:
            NonFiniteError: weights are NaN, or too large for their dtype; names the layer.
        """
        moments = target or self._moments
        cross = moments.target if self.scaling.has_offset else moments.raw_target()
        away = cross[self._rows] - self._inputs @ self._start
        found = torch.zeros_like(cross)
        found[self._rows] = self._start + torch.cholesky_solve(away, self._factor)
        self._write(found, moments)

    @torch.no_grad()
    def _write(self, found: Tensor, target: Moments) -> None:
        """Weights and intercept to where the network keeps them; dead outputs stay."""
        module = self.network.get_submodule(self.site.module)
        weight = weight_matrix(module).clone()
        stream = target.energy / (target.positions * len(weight))
        alive = self.scaling.alive(stream, weight.dtype)
        scale = self.scaling.scale.where(alive, 1.0)
        self._put(weight, (found / scale).T, alive)
        set_weight_matrix(module, weight)
        if not self.scaling.has_offset:
            return
        # Of the weights as they are stored: their rounding times a large mean is no small offset.
        reached = weight.double() @ self._moments.input_mean
        offset = target.target_mean - scale * reached
        if self.site.norm is None:
            assert isinstance(module.bias, Tensor)
            self._put(module.bias, offset, alive)
            return
        norm = self.network.get_submodule(self.site.norm)
        assert isinstance(norm.running_mean, Tensor)
        bias = module.bias.double() if isinstance(module.bias, Tensor) else 0.0
        mean = bias - (offset - norm.get_parameter("bias").double()) / scale
        self._put(norm.running_mean, mean, alive)

    def _put(self, place: Tensor, values: Tensor, alive: Tensor) -> None:
        """Values of living outputs, in the dtype of their place."""
        stored = values.to(place)[alive]
        if not torch.isfinite(stored).all():
            raise NonFiniteError(
                f"layer {self.site.module!r}: its fitted weights hold NaN or infinity as "
                f"{place.dtype}"
            )
        place[alive] = stored
