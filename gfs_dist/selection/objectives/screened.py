"""Exact search under a convex loss that evaluates few candidates.

At output ``u`` with loss ``L`` and gradient ``g``, let ``d_i = psi_i - u``,
``s_i = <g, d_i>``, ``q_i`` the second derivative along ``d_i``, and ``r_i`` a bound on the ratio
of the third derivative to the second. Then for every step size ``t``

    L + t s_i  <=  L + t s_i + q_i (exp(-t r_i) + t r_i - 1) / r_i^2  <=  L[u + t d_i]

(convexity, and generalised self-concordance: ``losses.py``). One matrix-vector product gives all
``s_i`` and so the first bound; candidates are then taken in its order, the second bound is
computed for those whose first one does not rule them out, the loss itself for those whose second
does not either, until the next first bound lies above the best loss by more than the tie
tolerance. Picks are exactly those of the exhaustive search.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gfs_dist.selection.objective import tie_tolerance
from gfs_dist.selection.objectives.contributions import Deviations, check_finite, chunks
from gfs_dist.selection.objectives.exhaustive import evaluate, zero_output
from gfs_dist.selection.objectives.losses import ConvexLoss
from gfs_dist.selection.objectives.owned_candidates import OwnCandidates
from gfs_dist.selection.step_sizes import StepSizeRule, Uniform

BATCH = 16
# Bounds are lowered by this share of their terms, so that rounding cannot rule out a tie.
SLACK = 1e-13


class Screened(OwnCandidates):
    """A convex loss for the own candidates, whose contributions are held.

    Args: as :class:`gfs_dist.selection.objectives.exhaustive.Exhaustive`.

    Attributes:
        num_evaluated, num_scored: losses evaluated so far, and losses asked for.
    """

    def __init__(
        self,
        source: Deviations,
        loss: ConvexLoss,
        own: Tensor,
        weights: StepSizeRule,
        replacement: bool,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(source.num_candidates, own, weights, replacement)
        self._measure, self._tick = loss, tick
        self._source, self._chunks = source, list(chunks(source))
        self._held = source.hold(self.own, tick)
        for places in torch.arange(len(own)).split(BATCH):
            tile = self._rows(places)
            check_finite(tile, tile.square().sum(1), self.own[places], 0, source.num_outputs)
            tick()
        self._output = zero_output(source)
        self._step_sizes: dict[int, float] = {}
        self._loss = loss.empty_loss
        self.num_evaluated = self.num_scored = 0

    @property
    def evaluated_share(self) -> float | None:
        """Losses evaluated of those asked for; None before the first step."""
        return self.num_evaluated / self.num_scored if self.num_scored else None

    def magnitude(self, loss: float) -> float:
        return self._measure.magnitude(loss, 0.0)

    def scores(self) -> Tensor:
        """Exact losses up to best plus tolerance, lower bounds above that."""
        gradient, width = self._measure.gradient(self._output), self._source.num_outputs
        products = torch.zeros(len(self.own), dtype=torch.float64, device=gradient.device)
        for start, stop in self._chunks:
            tile = self._held.tile(None, start, stop)
            products.addmv_(tile, gradient[start * width : stop * width])
        slopes = (products - gradient @ self._output).cpu()  # <g, psi_i - u>
        change = self._furthest(slopes) * slopes
        scores = self.exclude(self._loss + change - SLACK * (self._loss + change.abs()))
        order = scores.argsort()
        self._step_sizes.clear()
        self.num_scored += len(scores)
        best = torch.inf
        for first in range(0, len(order), BATCH):
            places = order[first : first + BATCH]
            lowest = float(scores[places[0]])
            if lowest == torch.inf or lowest > best + tie_tolerance(self, best):
                break
            best = min(best, self._examine(places, slopes, scores, best))
            self._tick()
        return scores

    def score(self, pick: int) -> float:
        place = torch.tensor([self.own_place(pick)])
        return float(self._evaluate(place, self._directions(place))[0])

    def column(self, pick: int, k: int) -> Tensor | None:
        place = self.place(pick)
        if place is None:
            return torch.empty_like(self._output)
        return self._rows(torch.tensor([place]))[0]

    def add(self, pick: int, column: Tensor | None, step_size: float, loss: float) -> None:
        assert column is not None, "a pick travels with its contribution"
        self._output += step_size * (column - self._output)
        self._loss = loss
        self.advance(pick)

    def _furthest(self, slopes: Tensor) -> Tensor:
        """The step size at which ``L + t s`` is least among those allowed."""
        if isinstance(self.weights, Uniform) or self.position == 0:
            return torch.full_like(slopes, 1.0 / (self.position + 1))
        return (slopes < 0).to(slopes.dtype)

    def _examine(self, places: Tensor, slopes: Tensor, scores: Tensor, best: float) -> float:
        """Tighten the scores of some candidates, by the second bound or exactly."""
        directions = self._directions(places)
        q = self._measure.curvatures(self._output, directions).cpu()
        r = self._measure.radius(directions).cpu()
        bounds = torch.maximum(self._second_bound(slopes[places], q, r), scores[places])
        scores[places] = bounds
        for few in bounds.argsort().split(4):
            few = few[bounds[few] <= best + tie_tolerance(self, best)]
            few = few[torch.isfinite(bounds[few])]
            if len(few) == 0:
                break
            values = self._evaluate(places[few], directions[few.to(directions.device)])
            self.num_evaluated += len(few)
            scores[places[few]] = values
            best = min(best, float(values.min()))
        return best

    def _second_bound(self, s: Tensor, q: Tensor, r: Tensor) -> Tensor:
        """``L + t s + q (exp(-t r) + t r - 1) / r^2`` at the best allowed step size ``t``."""
        t = self._furthest(s)
        if not isinstance(self.weights, Uniform) and self.position > 0:
            inside = 1.0 + s * r / q
            t = torch.where(inside > 0, (-inside.log() / r).clamp(0.0, 1.0), t)
            t = torch.where(torch.isfinite(t), t, self._furthest(s))
        x = t * r
        # (exp(-x) + x - 1) / x^2 loses all digits for small x; there its series is 1/2 - x/6.
        psi = torch.where(x > 1e-4, (torch.expm1(-x) + x) / x.square(), 0.5 - x / 6)
        bound = self._loss + t * s + q * t.square() * psi * (1.0 - 1e-9)
        return bound - SLACK * (self._loss + (t * s).abs())

    def _rows(self, places: Tensor) -> Tensor:
        """``psi_i`` of some own candidates."""
        return self._held.tile(places, 0, self._source.num_samples)

    def _directions(self, places: Tensor) -> Tensor:
        """``psi_i - u`` of some own candidates."""
        return self._rows(places) - self._output

    def _evaluate(self, places: Tensor, directions: Tensor) -> Tensor:
        k = self.position + 1
        values, steps = evaluate(self._measure, self._output, directions, self.weights, k)
        self._step_sizes.update(zip(places.tolist(), steps.tolist(), strict=True))
        return values.cpu()
