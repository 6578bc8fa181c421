"""Which streams of a smaller network are compared with the dense one's, and the gradient of that.

    loss = mean over streams of |s - d|^2 / |d0 - mean d0|^2

with the smaller network's stream ``s`` and the dense one's ``d`` after the ReLU that reads them,
and ``d0`` of samples fixed at the start. Neither labels nor logits take part.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gfs_dist.networks import dtype_of, prefer_channels_last
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.tensors import split_name
from gfs_dist.networks.measure.inputs import Batch, Inputs
from gfs_dist.networks.measure.threads import one_thread
from gfs_dist.networks.models.layer_kinds import blocks
from gfs_dist.pruning.calibration.layer_sites import Site, ancestors
from gfs_dist.pruning.calibration.moments import Geometry
from gfs_dist.pruning.calibration.staged_run import Results, advance, make_stages, output_names
from gfs_dist.pruning.repair.least_squares import DEAD


@dataclass(frozen=True)
class Stream:
    """A result that both networks have.

    Attributes:
        name: of the step.
        axis: of its channels.
        kept: channels of the dense network's that the smaller one has; None for all.
    """

    name: str
    axis: int
    kept: Tensor | None

    def target(self, dense: Results) -> Tensor:
        """What the smaller network's is to be."""
        found: Tensor = dense[self.name]
        if self.kept is None:
            return found
        return found.index_select(self.axis, self.kept.to(found.device))


def compared_streams(
    network: GraphNetwork, sites: Sequence[Site], outputs: Mapping[str, Tensor]
) -> tuple[Stream, ...]:
    """The streams that blocks write to; in a network without such, the outputs of its layers.

    A block's last layer keeps all its outputs, or adds to a shortcut. A shortcut's own layer does
    not count, nor does what gives the network's output.

    Args:
        sites: of the network.
        outputs: by module that lost outputs those that it kept.
    """
    above, last = ancestors(network), output_names(network)
    readers = {name: [s for s in network.gfs_program if name in s.needs] for name in above}
    shortcuts = {
        site.other for site in sites if site.other is not None and len(readers[site.other]) == 1
    }
    changed = {s.name for s in network.gfs_program if s.kind == "module" and s.target in outputs}
    inner = [
        site
        for site in sites
        if changed & above[site.stream] and site.stream not in {*last, *shortcuts}
    ]
    blocks = [site for site in inner if site.other is not None or site.module not in outputs]
    streams: dict[str, Stream] = {}
    for site in blocks or inner:
        axis = Geometry.of(network.get_submodule(site.module)).axis
        # What only ReLUs read is compared after the first.
        name = readers[site.stream][0].name if site.rectified else site.stream
        streams[name] = Stream(name, axis, outputs.get(site.module))
    return tuple(streams.values())


class FoldedNetwork:
    """A copy of a network whose batch norms lie in the layers before them.

    Norms after nothing that can take them keep their statistics. All weights and biases that the
    results depend on are one vector; networks of halves are float32 meanwhile.

    Args:
        network: recorded; not changed.
        sites: its layers, with their norms.
        names: results that are asked for.
        x: a few samples.
    """

    def __init__(
        self, network: GraphNetwork, sites: Sequence[Site], names: frozenset[str], x: Batch
    ) -> None:
        self.network = copy.deepcopy(network)
        if dtype_of(network).itemsize < torch.float32.itemsize:
            self.network.float()
        [self.stage] = make_stages(self.network, [names])
        used = {step.target for step in self.stage.steps if step.kind != "call"}
        used_names = tuple(f"{target}." for target in used)
        self.sites = [site for site in sites if site.norm in used]
        for site in self.sites:
            self._fold(site)
        self._channels_last = False
        prefer_channels_last(self.network, *self._start(x[:2]).values())
        self._channels_last = not all(p.is_contiguous() for p in self.network.parameters())
        self.parameters = [
            parameter
            for name, parameter in self.network.named_parameters()
            if parameter.is_floating_point() and f"{name}.".startswith(used_names)
        ]
        self.vector = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        for parameter, part in zip(self.parameters, self.parts(self.vector), strict=True):
            parameter.data = part
            parameter.requires_grad_()

    def parts(self, vector: Tensor) -> list[Tensor]:
        """A vector as views of the parameters' shapes."""
        pieces = vector.split([p.numel() for p in self.parameters])
        return [piece.view(p.shape) for piece, p in zip(pieces, self.parameters, strict=True)]

    def run(self, x: Batch, *, gradients: bool = False) -> Results:
        """The results asked for."""
        return advance(self.network, self.stage, self._start(x), gradients=gradients)

    @torch.no_grad()
    def unfold(self, network: GraphNetwork) -> None:
        """Write the weights to the network that this is a copy of; norms keep their statistics."""
        own, folded = dict(network.named_parameters()), dict(self.network.named_parameters())
        for site in self.sites:
            module, norm = (network.get_submodule(name) for name in (site.module, site.norm or ""))
            scale, mean = _affine(norm)
            # Outputs that the norm removed were folded to zero: they need a scale to be stored.
            scale = scale.where(scale.abs() > DEAD * scale.abs().max(), 1.0)
            weight = folded.pop(f"{site.module}.weight").double()
            bias = folded.pop(f"{site.module}.bias").double()
            if isinstance(module.bias, Tensor):
                mean = mean - module.bias.double()
            module.get_parameter("weight").copy_(weight / _along(scale, module))
            norm.get_parameter("bias").copy_(bias + scale * mean)
            norm.get_parameter("weight").copy_(scale * _deviation(norm))
        for name, value in folded.items():
            own[name].copy_(value)

    def _start(self, x: Batch) -> Results:
        """Samples in the dtype and the layout of the weights."""
        if isinstance(x, Inputs):
            return {self.network.gfs_inputs[0]: x}
        if x.is_floating_point():
            x = x.to(dtype_of(self.network))
        if x.ndim == 4 and self._channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return {self.network.gfs_inputs[0]: x}

    @torch.no_grad()
    def _fold(self, site: Site) -> None:
        module = self.network.get_submodule(site.module)
        assert site.norm is not None
        norm = self.network.get_submodule(site.norm)
        scale, mean = _affine(norm)
        own, before = module.get_parameter("weight"), module.bias
        bias = norm.get_parameter("bias").double() - scale * mean
        if isinstance(before, Tensor):
            bias += scale * before.double()
        module.weight = nn.Parameter((own.double() * _along(scale, module)).to(own))
        module.bias = nn.Parameter(bias.to(own))
        owner, name = split_name(self.network, site.norm)
        setattr(owner, name, nn.Identity())


class StreamPair:
    """A dense network and a smaller one, and the gradient of the difference of their streams.

    Args:
        dense, small: recorded; copied.
        sites: of both.
        outputs: by module that lost outputs those that it kept.
        x: samples over which the variances of the dense network's streams are taken.

    Attributes:
        streams: that are compared.
        small: whose weights can be trained.
    """

    def __init__(
        self,
        dense: GraphNetwork,
        small: GraphNetwork,
        sites: Sequence[Site],
        outputs: Mapping[str, Tensor],
        x: Batch,
    ) -> None:
        self.streams = compared_streams(small, sites, outputs)
        names = frozenset(stream.name for stream in self.streams)
        self.dense, self.small = (FoldedNetwork(net, sites, names, x) for net in (dense, small))
        with torch.no_grad(), one_thread():
            found = self.dense.run(x)
            variances = [float(stream.target(found).var()) for stream in self.streams]
        self._units = [variance or 1.0 for variance in variances]

    def gradient(self, x: Batch) -> Tensor:
        """Of the loss of some samples by :attr:`FoldedNetwork.vector`, and last the loss.

        By hand down to the streams, which saves copies of them in float32.
        """
        vector = self.small.vector
        with torch.autocast(vector.device.type, torch.bfloat16, has_bfloat16(vector.device), False):
            dense, small = self.dense.run(x), self.small.run(x, gradients=True)
        loss, slopes = vector.new_zeros(1), []
        for stream, unit in zip(self.streams, self._units, strict=True):
            difference = small[stream.name].detach() - stream.target(dense)
            weight = 1 / (unit * difference.numel() * len(self.streams))
            loss += weight * torch.linalg.vector_norm(difference, dtype=vector.dtype).square()
            slopes.append(difference.mul_(2 * weight))
        outputs = [small[stream.name] for stream in self.streams]
        found = torch.autograd.grad(outputs, self.small.parameters, slopes)
        return torch.cat([*(part.reshape(-1) for part in found), loss])


def has_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are quicker than of float32 there."""
    if device.type == "cuda":
        return True
    has = torch.cpu
    return has._is_avx512_bf16_supported() or has._is_amx_tile_supported()  # noqa: SLF001 - no other


def _deviation(norm: nn.Module) -> Tensor:
    assert isinstance(norm, _BatchNorm) and norm.running_var is not None
    return (norm.running_var.double() + norm.eps).sqrt()


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a norm multiplies its input by, less its mean; float64."""
    scale = norm.get_parameter("weight").detach().double() / _deviation(norm)
    return scale, norm.get_buffer("running_mean").double()


def _along(scale: Tensor, module: nn.Module) -> Tensor:
    """The scale of outputs, to be multiplied with a layer's weight."""
    groups, outputs, inputs, *kernel = blocks(module).shape
    if not getattr(module, "transposed", False):
        return scale.view(-1, *[1] * (1 + len(kernel)))
    rows = scale.view(groups, outputs).repeat_interleave(inputs, 0)
    return rows.view(*rows.shape, *[1] * len(kernel))
