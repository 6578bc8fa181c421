"""Costs of a network as a function of its widths, without building the smaller network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from gfs_dist.networks import count_params, macs_by_module
from gfs_dist.networks.measure.inputs import Inputs
from gfs_dist.networks.models.layer_kinds import blocks, is_layer, kernel_size, num_groups
from gfs_dist.pruning.structure.structure import Layer, Structure
from gfs_dist.pruning.widths.budget import UNITS, Budget, allowed_widths

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cost:
    """One cost as a polynomial in the widths ``w`` of n layers, exact in 64-bit integers.

        cost(w) = constant + linear . w + w' pairs w

    The size of a module's weight is a product of its outputs and its inputs, and both are affine
    in the widths: nothing of a higher degree occurs.

    Attributes:
        constant: of the parts that no width changes.
        linear: (n,).
        pairs: (n, n), zero below the diagonal.
    """

    constant: int
    linear: Integers
    pairs: Integers

    def __call__(self, widths: Integers) -> int:
        return self.constant + int(self.linear @ widths + widths @ self.pairs @ widths)


@dataclass(frozen=True)
class Costs:
    """Multiply-adds for one input, and parameters, of a network whose layers have given widths.

    Attributes:
        channels: candidates of each layer, in forward order.
        kinds: ``macs`` and ``params``.
    """

    channels: Mapping[str, int]
    kinds: Mapping[str, Cost]

    def of(self, kind: str, widths: Mapping[str, int]) -> int:
        """The cost of one kind, ``macs`` or ``params``; absent layers are whole."""
        assert widths.keys() <= self.channels.keys(), widths.keys() - self.channels.keys()
        every = [widths.get(name, channels) for name, channels in self.channels.items()]
        return self.kinds[kind](np.array(every, np.int64))

    def dense(self, kind: str) -> int:
        return self.of(kind, {})

    def fixed(self, name: str, width: int) -> Costs:
        """The costs as polynomials in the other layers' widths."""
        i = [*self.channels].index(name)

        def of_others(cost: Cost) -> Cost:
            squares = np.diag(np.diag(cost.pairs))
            linear = cost.linear + width * (cost.pairs + cost.pairs.T - 2 * squares)[i]
            constant = cost.constant + width * int(cost.linear[i] + width * cost.pairs[i, i])
            pairs = np.delete(np.delete(cost.pairs, i, 0), i, 1)
            return Cost(constant, np.delete(linear, i), pairs)

        channels = {other: n for other, n in self.channels.items() if other != name}
        return Costs(channels, {kind: of_others(cost) for kind, cost in self.kinds.items()})

    def limits(self, budget: Budget) -> dict[str, int]:
        """By kind, ``macs`` and ``params``, the largest cost that a budget allows."""
        return {
            kind: math.floor(share * self.dense(kind))
            for kind, share in budget.shares.items()
            if kind in UNITS
        }

    def least(self, round_to: int = 1) -> dict[str, int]:
        """The smallest allowed width of every layer."""
        return {name: allowed_widths(n, round_to)[0] for name, n in self.channels.items()}


def measure_costs(model: nn.Module, example: Tensor | Inputs, structure: Structure) -> Costs:
    """The costs of ``model`` shrunk along ``structure``.

    The model runs once, to learn at how many positions each module works. Outputs and inputs of a
    module are affine in the widths, ``c + s . w``; with ``(c, s)`` as vectors, a product of the two
    is their outer product, and a cost is a sum of such forms. Products of attention grow with its
    heads.

    Args:
        model: the dense network.
        example: a batch of inputs, on the model's device.
        structure: of it.
    """
    macs = macs_by_module(model, example)
    channels = {layer.name: layer.num_candidates for layer in structure.layers}
    whole = np.array(list(channels.values()), np.int64)
    forms = {kind: np.zeros((len(whole) + 1,) * 2, np.int64) for kind in ("macs", "params")}
    one = np.eye(1, len(whole) + 1, dtype=np.int64)[0]
    for name, (out_slopes, in_slopes) in _slopes(structure).items():
        shape = _Shape.of(model.get_submodule(name))
        in_slopes = in_slopes // shape.groups
        outputs = np.append(shape.outputs - out_slopes @ whole, out_slopes)
        inputs = np.append(shape.inputs - in_slopes @ whole, in_slopes)
        if shape.kernel:
            per_pair = macs.get(name, 0) // (shape.outputs * shape.inputs)
            forms["macs"] += per_pair * np.outer(outputs, inputs)
        forms["params"] += np.outer(outputs, shape.kernel * inputs + shape.per_output * one)
    for name, products in macs.items():
        if not is_layer(model.get_submodule(name)) and (layer := _attention(structure, name)):
            place = [*channels].index(layer.name)
            forms["macs"][0, place + 1] += products // layer.num_candidates
    dense = {"macs": sum(macs.values()), "params": count_params(model)}
    return Costs(channels, {kind: _cost(forms[kind], whole, dense[kind]) for kind in dense})


def _attention(structure: Structure, name: str) -> Layer | None:
    """The layer of heads whose attention a module computes: the innermost around it.

    Its products are proportional to the number of heads. None if there is none, or several.
    """
    while True:
        start = f"{name}." if name else ""
        inside = [
            layer
            for layer in structure.layers
            if layer.kind in ("heads", "kv_groups")
            and any(part.module.startswith(start) for part in layer.producers)
        ]
        if inside or not name:
            return inside[0] if len(inside) == 1 else None
        name = name.rpartition(".")[0]


def _cost(form: Integers, whole: Integers, dense: int) -> Cost:
    """A form as a polynomial, with the constant that makes up the cost of the dense network."""
    linear, square = form[0, 1:] + form[1:, 0], form[1:, 1:]
    pairs = np.triu(square) + np.tril(square, -1).T
    return Cost(dense - Cost(0, linear, pairs)(whole), linear, pairs)


class _Shape(NamedTuple):
    """The sizes of a module that grow with its channels.

    Attributes:
        outputs, inputs: channels (with groups: inputs of one group).
        kernel: weights for each pair of them; 0 for norms and PReLUs.
        per_output: other parameters for each output: biases, weights of norms.
    """

    outputs: int
    inputs: int
    kernel: int
    per_output: int
    groups: int = 1

    @classmethod
    def of(cls, module: Any) -> _Shape:
        parameters = dict(module.named_parameters(recurse=False))
        if not parameters:
            return cls(0, 0, 0, 0)
        weight = parameters["weight"]
        if isinstance(module, nn.Embedding):
            return cls(module.embedding_dim, 0, 0, module.num_embeddings)
        outputs, inputs, kernel = len(weight), 0, 0
        if is_layer(module):
            groups, outputs, inputs, *_ = blocks(module).shape
            outputs, kernel = groups * outputs, kernel_size(module)
            del parameters["weight"]
        others = sum(parameter.numel() for parameter in parameters.values())
        return cls(outputs, inputs, kernel, others // outputs, num_groups(module))


def _slopes(structure: Structure) -> dict[str, tuple[Integers, Integers]]:
    """Outputs and inputs of each module that go with one candidate of each layer."""
    count = len(structure.layers)
    found: dict[str, tuple[Integers, Integers]] = {}
    for number, layer in enumerate(structure.layers):
        for side, parts in enumerate((layer.cut_slices, layer.consumers)):
            for part in parts:
                zeros = np.zeros(count, np.int64), np.zeros(count, np.int64)
                found.setdefault(part.module, zeros)[side][number] += len(part.channels[0])
    return found
