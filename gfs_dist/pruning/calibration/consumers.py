"""How a layer's consumers read its candidates, and how each candidate's share is weighed there.

The gate of a candidate is a factor on all input channels with which the consumers read it. Gates
of one are the dense network; gates of zero are the masked one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import InputError
from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import StepOutput
from gfs_dist.networks.measure.costs import CONVOLUTIONS, TRANSPOSED
from gfs_dist.pruning.structure.structure import Layer, Slice


@dataclass(frozen=True, eq=False)
class Reader:
    """The one call of a consumer.

    Attributes:
        step: the call.
        source: the result that it reads.
        module: the consumer.
        channels: for each candidate its input channels, or features.
    """

    step: Step
    source: str
    module: Any
    channels: tuple[tuple[int, ...], ...]

    @cached_property
    def owners(self) -> Tensor:
        """The candidate of each input channel, int64; their number where it belongs to none."""
        weight = self.module.weight
        width = len(weight) if getattr(self.module, "transposed", False) else weight.shape[1]
        owners = torch.full((width,), len(self.channels), device=weight.device)
        for candidate, channels in enumerate(self.channels):
            owners[list(channels)] = candidate
        return owners

    @property
    def splits(self) -> bool:
        """Whether its output is a sum over candidates that can be had one by one."""
        if self.step.kwargs or len(self.step.args) != 1:
            return False
        if isinstance(self.module, nn.Linear):
            return True
        # Other paddings are done by the module, and lengthen the input before it is read.
        return self.module.padding_mode == "zeros" and not isinstance(self.module.padding, str)

    def gates(self, factors: Tensor) -> Tensor:
        """Gates of candidates (rows, n) as those of input channels (rows, inputs)."""
        ones = torch.ones_like(factors[:, :1])
        return torch.cat([factors, ones], 1)[:, self.owners]

    def gated(self, x: Tensor, gates: Tensor) -> Tensor:
        """Its input with gates (rows, inputs) on the channels; one row serves all samples."""
        middle = (1,) * (x.ndim - 2)
        linear = isinstance(self.module, nn.Linear)
        shape = (len(gates), *middle, gates.shape[1]) if linear else (*gates.shape, *middle)
        return x * gates.to(x.dtype).reshape(shape)

    def partial(self, x: Tensor, candidate: int) -> Tensor:
        """What one candidate adds to the output; these, and the output on none, sum up to it."""
        module, channels = self.module, list(self.channels[candidate])
        if isinstance(module, nn.Linear):
            return functional.linear(x[..., channels], module.weight[:, channels])
        weight = module.weight[channels] if module.transposed else module.weight[:, channels]
        return torch.convolution(
            x[:, channels],
            weight,
            None,
            module.stride,
            module.padding,
            module.dilation,
            module.transposed,
            module.output_padding,
            1,
        )


def find_readers(network: GraphNetwork, layer: Layer) -> tuple[Reader, ...]:
    """The calls of the layer's consumers, in the order of the program.

    Raises:
        InputError: a consumer is not called once, with a tensor as its first argument.
    """
    calls = {step: place for place, step in enumerate(s.name for s in network.gfs_program)}
    readers = [_reader(network, layer.name, consumer) for consumer in layer.consumers]
    return tuple(sorted(readers, key=lambda reader: calls[reader.step.name]))


def _reader(network: GraphNetwork, layer: str, consumer: Slice) -> Reader:
    module = network.get_submodule(consumer.module)
    steps = [
        step
        for step in network.gfs_program
        if step.kind == "module" and network.get_submodule(step.target) is module
    ]
    if len(steps) == 1:
        (step,) = steps
        source = step.args[0] if step.args else step.kwargs.get("input")
        kinds = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
        if isinstance(source, StepOutput) and isinstance(module, kinds):
            return Reader(step, source.name, module, consumer.channels)
    raise InputError(
        f"layer {layer!r}: its consumer {consumer.module!r} is called {len(steps)} times, accepted "
        "is one call of a convolution or linear layer on a tensor"
    )
