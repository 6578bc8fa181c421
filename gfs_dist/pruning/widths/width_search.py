"""Widths from the layers' curves, each weighted by what it does to the whole network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from gfs_dist.pruning.widths.allocate import Floats, allocate
from gfs_dist.pruning.widths.budget import allowed_widths
from gfs_dist.pruning.widths.costs import Costs

Widths = dict[str, int]
STEPS = 8
"""A trial narrows a layer by this part of its widths."""
LEAST_WEIGHT = 0.1
"""Of the median weight: below, a weight is the noise of its trials."""
LEAST_GAIN = 0.005
"""Of the loss, that a round brings if another one is to follow. On ResNet20 at half of its inner
multiply-adds three rounds lower the loss by 10, 1.2 and 0.9 %; the last one lifts top-1 by 0.3."""
LEVEL = 1e-3
"""Of a curve's span: what it falls by at least from the first to the last width."""


class Measure(Protocol):
    """The losses of several widths, which are the anchor's in all layers or all but one."""

    def __call__(self, wanted: Sequence[Widths], anchor: Widths | None) -> list[float]: ...


class WidthSearch:
    """A search over widths within limits, by a model that trials correct.

    The model: errors of single layers add up, each times a weight of its layer,

        loss(w) = loss(v) + sum_l c_l (curve_l(w_l) - curve_l(v_l))

    Around the best widths ``v`` so far, every round measures the loss with each layer alone some
    channels narrower. A layer's weight is what all its trials changed the loss by over what they
    changed the curve by. The widths for which the model is least within the limits are measured,
    and rounds go on from there as long as they lower the loss by :data:`LEAST_GAIN`.

    Args:
        costs: of the network.
        limits: by kind of cost the most of it.
        curves: by layer its error with 1, 2, ... channels.
        measure: see :class:`Measure`.
        trials: how often a loss may be measured.
        round_to: widths are multiples of this.
    """

    def __init__(
        self,
        costs: Costs,
        limits: Mapping[str, int],
        curves: Mapping[str, Sequence[float]],
        measure: Measure,
        trials: int,
        round_to: int = 1,
    ) -> None:
        self._costs, self._limits, self._round_to = costs, limits, round_to
        self._trials, self._measure = trials, measure
        self._known: dict[tuple[int, ...], float] = {}
        self._curves = {name: falling(curve) for name, curve in curves.items()}
        self._allowed = {
            name: allowed_widths(costs.channels[name], round_to, len(curve))
            for name, curve in curves.items()
        }
        self._rise, self._run = dict.fromkeys(curves, 0.0), dict.fromkeys(curves, 0.0)

    @property
    def used(self) -> int:
        """Trials so far."""
        return len(self._known)

    def run(self, starts: Sequence[Widths]) -> tuple[Widths, float]:
        """From the best of several widths within the limits to the best of all rounds.

        Returns:
            These widths, and their measured loss.
        """
        losses = self.losses(starts)
        loss, place = min((loss, i) for i, loss in enumerate(losses))
        widths = dict(starts[place])
        while self.used + len(self._curves) < self._trials:
            self._weigh(widths, loss)
            proposed = self._propose()
            before, (found,) = loss, self.losses([proposed])
            if found < loss:
                widths, loss = proposed, found
            if not found < (1 - LEAST_GAIN) * before:
                break
        return widths, loss

    def losses(self, wanted: Sequence[Widths], anchor: Widths | None = None) -> list[float]:
        """Measured losses of widths; each is measured once."""
        keys = [tuple(widths[name] for name in self._curves) for widths in wanted]
        pairs = zip(keys, wanted, strict=True)
        new = {key: widths for key, widths in pairs if key not in self._known}
        if new:
            self._known |= zip(new, self._measure(list(new.values()), anchor), strict=True)
        return [self._known[key] for key in keys]

    def weights(self) -> dict[str, float]:
        """By layer, what the loss rises by when the curve rises by one; the median where no trial
        told, 1 before any.
        """
        found = {name: self._rise[name] / run for name, run in self._run.items() if run}
        middle = float(np.median([*found.values()])) if found else 1.0
        if middle <= 0:
            return dict.fromkeys(self._curves, 1.0)
        return {name: max(found.get(name, middle), LEAST_WEIGHT * middle) for name in self._curves}

    def _weigh(self, widths: Widths, loss: float) -> None:
        """Measure each layer alone at another width."""
        others = {name: self._other(widths[name], name) for name in self._curves}
        others = {name: other for name, other in others.items() if other != widths[name]}
        trials = [{**widths, name: other} for name, other in others.items()]
        found = self.losses(trials, widths)
        for (name, other), value in zip(others.items(), found, strict=True):
            if math.isfinite(rise := value - loss):
                curve = self._curves[name]
                self._rise[name] += rise
                self._run[name] += float(curve[other - 1] - curve[widths[name] - 1])

    def _other(self, width: int, name: str) -> int:
        """A layer some channels narrower; wider where it cannot be narrower."""
        allowed = self._allowed[name]
        place, step = allowed.index(width), max(1, len(allowed) // STEPS)
        return allowed[max(place - step, 0) if place else min(step, len(allowed) - 1)]

    def _propose(self) -> Widths:
        """The widths for which the model is least."""
        weights = self.weights()
        curves = {name: (weights[name] * curve).tolist() for name, curve in self._curves.items()}
        return allocate(curves, self._costs, self._limits, self._round_to)


def falling(curve: Sequence[float]) -> Floats:
    """The least error with at most 1, 2, ... channels, made to fall a little where it is level."""
    least = np.minimum.accumulate(np.asarray(curve, np.float64))
    span = float(least[0] - least[-1]) or 1.0
    return least + LEVEL * span * np.linspace(1.0, 0.0, len(least))
