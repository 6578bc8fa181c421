"""Which outputs of layers reach which inputs of others, measured on real forward passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.networks.measure.inputs import Inputs, run, tensors_of
from gfs_dist.networks.models.layer_kinds import is_layer, reads_features

Places = Mapping[str, Tensor]
"""By module a bool (channels,): some of its outputs, or of its inputs."""

SEED = 0
TOLERANCE = 1e-12
"""Of the largest input: less than this is rounding in float64."""


@contextmanager
def influences_in(network: nn.Module, example: Tensor | Inputs) -> Iterator[Influences]:
    """Influences between the layers of a network, which do not compute inside the block.

    Args:
        network: a copy, in evaluation mode.
        example: a batch that it takes.
    """
    influences = Influences(network, example)
    try:
        yield influences
    finally:
        for name, layer in influences.layers.items():
            layer.__dict__.pop("forward")
            layer.__dict__.update(influences.own_forwards[name])


class Influences:
    """Influences from layer to layer that pass through no other layer.

    One forward pass notes what every layer gives. In all later ones, layers give that again and
    compute nothing, so that a change of some outputs reaches the inputs of the next layers alone,
    whatever lies between: activations, attention, norms, reshapes. Gradients lead back from inputs
    to outputs, changed outputs forward to inputs; nothing is assumed about the code.

    Args:
        network: a copy, in evaluation mode; its layers do not compute from now on: see
            :func:`influences_in`.
        example: a batch that it takes.

    Attributes:
        calls: of convolutions, linear layers and embeddings, in the order of the first calls.
        given: what each gave, call by call.
        inputs: what each read, (positions, channels), all calls together.
        layers: those that are called.
        owners: by the id of a parameter the modules that hold it.
    """

    def __init__(self, network: nn.Module, example: Tensor | Inputs) -> None:
        self._network, self._example = network, example
        self._random = torch.Generator().manual_seed(SEED)
        self.owners: dict[int, list[str]] = {}
        for name, module in network.named_modules():
            for weight in module.parameters(recurse=False):
                self.owners.setdefault(id(weight), []).append(name)
        self.calls: Counter[str] = Counter()
        self.given: dict[str, list[Tensor]] = {}
        self._read: dict[str, list[Tensor]] = {}
        self._give: dict[str, list[Tensor]] = {}
        layers = {
            name: module
            for name, module in network.named_modules()
            if is_layer(module) or isinstance(module, nn.Embedding)
        }
        hooks = [
            layer.register_forward_hook(partial(self._note, name)) for name, layer in layers.items()
        ]
        with torch.no_grad():
            run(network, example.clone())
        for hook in hooks:
            hook.remove()
        self.layers = {name: layers[name] for name in self.calls}
        self.own_forwards = {
            name: {"forward": layer.__dict__["forward"]} if "forward" in layer.__dict__ else {}
            for name, layer in self.layers.items()
        }
        for name, layer in self.layers.items():
            layer.forward = partial(self._pinned, name)
        for outputs in self.given.values():
            for output in outputs:
                output.requires_grad_(output.is_floating_point())
        with torch.enable_grad():
            self.inputs, self._outputs = self._pass({})
        self._weights = {name: self._normal(x) for name, x in self.inputs.items()}

    def _note(self, name: str, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.calls[name] += 1
        self.given.setdefault(name, []).append(output.detach().clone())

    def _pinned(self, name: str, *args: Any, **kwargs: Any) -> Tensor:
        x = next(tensors_of([args, kwargs]))
        if x.is_floating_point():  # the code may change it in place afterwards
            self._read.setdefault(name, []).append(x.clone())
        return self._give[name].pop(0).clone()

    def _pass(self, changes: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What layers read with some outputs changed, and what the network gives."""
        self._read = {}
        self._give = {
            name: [output + changes[name] if name in changes else output for output in outputs]
            for name, outputs in self.given.items()
        }
        outputs = tensors_of(run(self._network, self._example.clone()))
        read = {name: self._rows(name, xs) for name, xs in self._read.items()}
        return read, [out for out in outputs if out.is_floating_point()]

    def _rows(self, name: str, tensors: Iterable[Tensor]) -> Tensor:
        """Inputs or outputs of a layer as (positions, channels)."""
        axis = self.axis(name)
        return torch.cat([x.movedim(axis, -1).flatten(0, -2) for x in tensors])

    def axis(self, name: str) -> int:
        """Of channels in what a layer reads and gives."""
        layer = self.layers[name]
        return -1 if reads_features(layer) or isinstance(layer, nn.Embedding) else 1

    def _normal(self, like: Tensor) -> Tensor:
        drawn = torch.randn(like.shape, generator=self._random, dtype=torch.float64)
        return drawn.to(like.device, like.dtype)

    def sources(self, columns: Places | None = None) -> dict[str, Tensor]:
        """Outputs that reach some inputs, or the network's output (None), by gradients."""
        if columns is None:
            ends = [(out * self._normal(out)).sum() for out in self._outputs if out.requires_grad]
        else:
            ends = [
                (self.inputs[name] * self._weights[name])[:, chosen].sum()
                for name, chosen in columns.items()
                if self.inputs[name].requires_grad and bool(chosen.any())
            ]
        leaves = [(n, x) for n, xs in self.given.items() for x in xs if x.requires_grad]
        if not ends or not leaves:
            return {}
        grads = torch.autograd.grad(
            ends, [leaf for _, leaf in leaves], allow_unused=True, retain_graph=True
        )
        found: dict[str, Tensor] = {}
        for (name, _), grad in zip(leaves, grads, strict=True):
            if grad is not None and bool((rows := (self._rows(name, [grad]) != 0).any(0)).any()):
                found[name] = found[name] | rows if name in found else rows
        return found

    @torch.no_grad()
    def reached(self, rows: Places) -> dict[str, Tensor]:
        """Inputs of layers that change with some outputs."""
        changes = {
            name: self._normal(own) * own.std().clamp(min=1e-3)
            for name in rows
            for own in (self.given[name][0].detach(),)
        }
        read, _ = self._pass(self._at(rows, changes))
        found = {}
        for name, x in read.items():
            before = self.inputs[name].detach()
            found[name] = (x - before).abs().amax(0) > TOLERANCE * before.abs().max()
        return found

    @torch.no_grad()
    def silenced(self, rows: Places) -> dict[str, Tensor]:
        """Inputs of layers that are zero everywhere if some outputs are."""
        changes = {name: -self.given[name][0].detach() for name in rows}
        read, _ = self._pass(self._at(rows, changes))
        return {name: (x == 0).all(0) for name, x in read.items()}

    def _at(self, rows: Places, changes: dict[str, Tensor]) -> dict[str, Tensor]:
        """Changes of the chosen outputs alone."""
        return {
            name: change.movedim(self.axis(name), -1).mul(rows[name]).movedim(-1, self.axis(name))
            for name, change in changes.items()
        }
