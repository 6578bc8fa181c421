"""Gates on a layer's candidates: factors on the input channels by which its consumers read them.

Gates of one are the dense network; gates of zero mask candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gfs_dist.errors import InputError
from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import StepOutput
from gfs_dist.networks.models.layer_kinds import (
    blocks,
    is_layer,
    num_groups,
    num_inputs,
    reads_features,
)
from gfs_dist.pruning.calibration.staged_run import Results
from gfs_dist.pruning.structure.structure import Layer, Slice


@dataclass(frozen=True, eq=False)
class ConsumerCall:
    """The one call of a consumer.

    Attributes:
        source: the result that the step reads.
        channels: of each candidate, its input channels or features.
    """

    step: Step
    source: str
    module: Any
    channels: tuple[tuple[int, ...], ...]

    @cached_property
    def owners(self) -> Tensor:
        """The candidate of each input channel, int64; ``n`` for channels of none."""
        device = self.module.weight.device
        owners = torch.full((num_inputs(self.module),), len(self.channels), device=device)
        for candidate, channels in enumerate(self.channels):
            owners[list(channels)] = candidate
        return owners

    @property
    def is_additive(self) -> bool:
        """Whether its output is a sum over candidates that can be computed one by one."""
        if self.step.kwargs or len(self.step.args) != 1:
            return False
        if reads_features(self.module):
            return True
        # With other paddings the module lengthens its input first.
        own = self.module.padding_mode == "zeros" and not isinstance(self.module.padding, str)
        return own and num_groups(self.module) == 1

    def gates(self, factors: Tensor) -> Tensor:
        """Gates of candidates (rows, n) as gates of input channels (rows, inputs)."""
        ones = torch.ones_like(factors[:, :1])
        return torch.cat([factors, ones], 1)[:, self.owners]

    def gated(self, x: Tensor, gates: Tensor) -> Tensor:
        """The input times gates (rows, inputs); one row serves all samples."""
        middle = (1,) * (x.ndim - 2)
        last = reads_features(self.module)
        shape = (len(gates), *middle, gates.shape[1]) if last else (*gates.shape, *middle)
        return x * gates.to(x.dtype).reshape(shape)

    def with_gates(self, results: Results, gates: Tensor) -> Results:
        """Results in which the step reads its input times gates."""
        return {**results, self.source: self.gated(results[self.source], gates)}

    def contribution(self, x: Tensor, candidate: int) -> Tensor:
        """What one candidate adds to the output on no candidate."""
        module, channels = self.module, list(self.channels[candidate])
        if reads_features(module):
            return functional.linear(x[..., channels], blocks(module)[0][:, channels])
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


def find_consumer_calls(network: GraphNetwork, layer: Layer) -> tuple[ConsumerCall, ...]:
    """The calls of the layer's consumers, in the order of the program.

    Raises:
        InputError: a consumer is not called once, with a tensor as its first argument.
    """
    order = {step.name: place for place, step in enumerate(network.gfs_program)}
    calls = [_find_call(network, layer.name, consumer) for consumer in layer.consumers]
    return tuple(sorted(calls, key=lambda call: order[call.step.name]))


def _find_call(network: GraphNetwork, layer: str, consumer: Slice) -> ConsumerCall:
    module = network.get_submodule(consumer.module)
    steps = [
        step
        for step in network.gfs_program
        if step.kind == "module" and network.get_submodule(step.target) is module
    ]
    if len(steps) == 1:
        (step,) = steps
        source = step.args[0] if step.args else step.kwargs.get("input")
        if isinstance(source, StepOutput) and is_layer(module):
            return ConsumerCall(step, source.name, module, consumer.channels)
    raise InputError(
        f"layer {layer!r}: its consumer {consumer.module!r} is called {len(steps)} times, accepted "
        "is one call of a convolution or linear layer on a tensor"
    )
