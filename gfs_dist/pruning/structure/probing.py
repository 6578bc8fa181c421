"""Which channels go together, found by changing the outputs of a layer and looking who notices.

Every convolution and linear layer of a copy gives random numbers instead of its output, so that a
change reaches the layers that read it and no others. Whoever reads channels of a layer, through
whatever lies between, is then found by changing the channels whose number has bit ``b`` set, and
those where it has not: an input that depends on one channel notices one of the two for each bit,
and the bits are the channel's number. ``2 log2(n)`` passes tell it for all ``n`` channels, without
a name for any operation on the way.

Channels that a reader mixes can only go together: the halves of a gate (GLU), the groups of a group
norm or a grouped convolution. What is found is tried by a real removal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gfs_dist.networks.measure.inputs import Inputs, run, tensors_of
from gfs_dist.networks.models.layer_kinds import (
    blocks,
    is_layer,
    num_groups,
    num_outputs,
    reads_features,
)

DRAWS, QUIET = 12, 2
"""Passes with other numbers, at most, and those that show nothing new before no more are made: a
ReLU lets none through where all of a channel are negative."""

MAX_PASSES = 5000
"""Of all questions about one network; a ResNeXt50 takes some 1,300."""

NONE, MIXED = -1, -2

Readers = dict[str, Tensor]
"""By module, for each of its channels: the candidate it depends on, ``NONE`` or ``MIXED``."""

OUTPUT = "\0output"


class Probe:
    """A copy of a network whose layers give random numbers.

    Args:
        network: a copy in evaluation mode, with weights that hide nothing; it is changed.
        example: a batch for it.
        whole: modules that run as they are: grouped convolutions whose groups go as a whole.
    """

    def __init__(
        self, network: nn.Module, example: Tensor | Inputs, whole: Iterable[str] = ()
    ) -> None:
        self.network, self.example = network, example
        self._generator = torch.Generator()
        self._outputs: dict[str, Tensor] = {}
        self._seen: dict[str, Tensor] = {}
        self._before: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self._chosen: dict[str, Tensor] = {}
        self.silent: set[str] = set()
        self._passes = 0
        self._like: dict[tuple[str, torch.Size], Tensor] = {}
        self.layers: list[str] = []
        kept = set(whole)
        for name, module in network.named_modules():
            if is_layer(module) and name not in kept and not is_depthwise(module):
                self.layers.append(name)
                module.forward = partial(self._instead, name, module, module.forward)
                continue
            if is_layer(module):
                average(module)
            if any(True for _ in module.parameters(recurse=False)):
                module.register_forward_hook(partial(self._look, name))

    def _instead(
        self, name: str, module: nn.Module, forward: Callable[..., Any], x: Tensor, *more: Any
    ) -> Tensor:
        """Random numbers of the shape of a layer's output, which is computed at the first call."""
        self._seen[name] = by_channel(module, x)
        if (name, x.shape) not in self._like:
            self._like[name, x.shape] = forward(x, *more)
        like = self._like[name, x.shape]
        found = self._outputs.get(name)
        if found is None or found.shape != like.shape:
            found = self._outputs[name] = self._numbers(like)
        if name in self.silent:
            return torch.zeros_like(found)
        chosen = self._chosen.get(name)
        if chosen is None:
            return found
        along = chosen if reads_features(module) else chosen.view(-1, *[1] * (found.ndim - 2))
        return torch.where(along, self._numbers(found), found)

    def _numbers(self, like: Tensor) -> Tensor:
        drawn = torch.rand(like.shape, generator=self._generator, dtype=torch.float64)
        return drawn.mul_(4).sub_(2).to(like)

    def _look(self, name: str, module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        self._seen[name] = by_channel(module, output)
        return torch.zeros_like(output) if name in self.silent else output

    @torch.no_grad()
    def _run(self, chosen: dict[str, Tensor]) -> dict[str, Tensor]:
        self._passes += 1
        if self._passes > MAX_PASSES:
            raise RuntimeError(f"found after {MAX_PASSES:,} passes: nothing")
        self._seen, self._chosen = {}, chosen
        found = run(self.network, self.example.clone())
        for place, out in enumerate(tensors_of(found)):
            self._seen[f"{OUTPUT}{place}"] = out.reshape(1, -1)
        return self._seen

    def _reference(self, draw: int) -> dict[str, Tensor]:
        """What modules see of one set of numbers; the next pass is run on the same."""
        if len(self._before) == draw:
            self._generator.manual_seed(draw)
            self._outputs = {}
            self._before.append((self._run({}), self._outputs))
        seen, self._outputs = self._before[draw]
        self._generator.manual_seed(DRAWS + draw)
        return seen

    def touched(self, source: str, chosen: Tensor) -> dict[str, Tensor]:
        """By module the channels that notice a change of the chosen outputs of ``source``."""
        total = self._noticed(0, source, chosen)
        quiet = 0
        for draw in range(1, DRAWS):
            found = self._noticed(draw, source, chosen)
            quiet = 0 if any((found[n] > total[n]).any() for n in found) else quiet + 1
            total = {name: noticed | total[name] for name, noticed in found.items()}
            if quiet == QUIET:
                break
        return {name: noticed for name, noticed in total.items() if noticed.any()}

    def _noticed(self, draw: int, source: str, chosen: Tensor) -> dict[str, Tensor]:
        before, found = self._reference(draw), {}
        for name, value in self._run({source: chosen}).items():
            other = before[name]
            if value.shape == other.shape:
                found[name] = (value != other).flatten(1).any(1)
            else:
                found[name] = torch.ones(len(value), dtype=torch.bool)
        return found

    def readers(self, source: str, owners: Tensor, touched: dict[str, Tensor]) -> Readers:
        """The candidate on which each channel of each module depends.

        As soon as one depends on several, nothing more is asked.

        Args:
            owners: the candidate of each output of ``source``; ``NONE`` for those left alone.
            touched: channels that depend on any of these candidates.
        """
        taken = owners >= 0
        found: Readers = {
            name: torch.full(noticed.shape, NONE).masked_fill(noticed, 0)
            for name, noticed in touched.items()
        }
        for bit in range(max(1, math.ceil(math.log2(int(owners.max()) + 1)))):
            has_bit = (owners >> bit & 1).bool()
            ones = self._answers(source, taken & has_bit, taken & ~has_bit, touched)
            for name, numbers in found.items():
                numbers[ones[name] == 1] += 1 << bit
                numbers[ones[name] == MIXED] = MIXED
            if any((numbers == MIXED).any() for numbers in found.values()):
                break
        return found

    def _answers(
        self, source: str, ones: Tensor, zeros: Tensor, touched: dict[str, Tensor]
    ) -> Readers:
        """Of each touched channel, which half of the outputs it notices: 1, 0 or ``MIXED``."""
        one, zero = ({n: torch.zeros_like(t) for n, t in touched.items()} for _ in range(2))
        for draw in range(DRAWS):
            for half, chosen in ((one, ones), (zero, zeros)):
                noticed = self._noticed(draw, source, chosen)
                for name in half:
                    half[name] |= noticed[name]
            if all(((one[n] | zero[n]) >= noticed).all() for n, noticed in touched.items()):
                break
        return {
            n: torch.where(one[n] == zero[n], MIXED, one[n].long()).where(noticed, NONE)
            for n, noticed in touched.items()
        }

    def without(self, silent: Iterable[str], source: str) -> dict[str, Tensor]:
        """Who notices ``source`` while other modules give zeros."""
        before, self._before, self.silent = self._before, [], set(silent)
        every = torch.ones(num_outputs(self.network.get_submodule(source)), dtype=torch.bool)
        noticed = self.touched(source, every)
        self._before, self.silent = before, set()
        return noticed


def by_channel(module: nn.Module, values: Tensor) -> Tensor:
    """Values with the axis of channels in front."""
    second = isinstance(module, (_NormBase, nn.GroupNorm, nn.PReLU)) or (
        is_layer(module) and not reads_features(module)
    )
    return values.movedim(1 if second and values.ndim > 1 else -1, 0)


@torch.no_grad()
def average(module: nn.Module) -> None:
    """Let a layer give averages: behind a ReLU, other weights can leave a channel dead."""
    own = blocks(module)
    fan_in = [axis for axis in range(own.ndim) if axis > 1]
    own.abs_().div_(own.sum(fan_in, keepdim=True))


def is_depthwise(module: nn.Module) -> bool:
    """Whether each channel is computed from one input channel alone."""
    return num_groups(module) > 1 and blocks(module).shape[2] == 1
