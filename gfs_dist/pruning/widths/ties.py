"""Layers that share one width: a problem of as many widths as there are groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gfs_dist.pruning.structure.structure import Layer
from gfs_dist.pruning.widths.costs import Cost, Costs

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ties:
    """Which layers share a width.

    Attributes:
        groups: by layer, in forward order, its group: the name of the group's first layer.
    """

    groups: Mapping[str, str]

    @classmethod
    def of(cls, layers: Sequence[Layer], *, uniform: bool) -> Ties:
        """With ``uniform``, all layers of one kind and as many candidates; else each alone."""
        first: dict[object, str] = {}
        return cls(
            {
                layer.name: first.setdefault((layer.kind, layer.num_candidates), layer.name)
                if uniform
                else layer.name
                for layer in layers
            }
        )

    def expand(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """By layer, what its group has."""
        return {name: values[group] for name, group in self.groups.items() if group in values}

    def curves(self, curves: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        """By group the sum of its layers' curves, as far as the shortest one goes."""
        parts: dict[str, list[Sequence[float]]] = {}
        for name, curve in curves.items():
            parts.setdefault(self.groups[name], []).append(curve)
        return {
            group: [sum(errors) for errors in zip(*every, strict=False)]
            for group, every in parts.items()
        }

    def costs(self, costs: Costs) -> Costs:
        """The costs as polynomials in the widths of groups: layers' widths are ``ties @ v``."""
        names = list(dict.fromkeys(self.groups.values()))
        ties = np.array(
            [[int(self.groups[name] == group) for group in names] for name in costs.channels]
        )

        def tied(cost: Cost) -> Cost:
            square = ties.T @ cost.pairs @ ties
            pairs = np.triu(square) + np.tril(square, -1).T
            return Cost(cost.constant, ties.T @ cost.linear, pairs)

        channels = {name: costs.channels[name] for name in names}
        return Costs(channels, {kind: tied(cost) for kind, cost in costs.kinds.items()})
