"""Widths by exchange, as they were before: hundreds of trials; what ``sizing`` compares with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product

from gfs_dist.pruning.widths.budget import allowed_widths
from gfs_dist.pruning.widths.costs import Costs

Widths = dict[str, int]
Measure = Callable[[Sequence[Widths]], list[float]]
TRIED = 4
"""Exchanges measured at once, the most promising first."""


class WidthExchange:
    """A search over widths within a limit.

    Every round measures for each layer what a step up would gain and a step down would cost.
    Pairs are then tried in the order of what they promise, the cost freed going to the layer that
    gains, and rests to the layers that gain most; the best pair that lowers the loss stays.
    Without one, steps are halved, down to one channel.

    Args:
        costs: of the network.
        kind, limit: the cost and the most of it.
        round_to: widths are multiples of this.
        measure: the loss of several widths.
        trials: how often a loss may be measured.
        most: by layer, the largest width.
    """

    def __init__(
        self,
        costs: Costs,
        kind: str,
        limit: int,
        measure: Measure,
        trials: int,
        most: Mapping[str, int],
        round_to: int = 1,
    ) -> None:
        self._costs, self._kind, self._limit = costs, kind, limit
        self._trials, self._measure = trials, measure
        self._known: dict[tuple[int, ...], float] = {}
        self._names = list(most)
        self._allowed = {
            name: allowed_widths(costs.channels[name], round_to, most[name]) for name in most
        }
        self._steps = {name: max(1, len(self._allowed[name]) // 8) for name in most}

    @property
    def used(self) -> int:
        """Trials so far."""
        return len(self._known)

    def run(self, starts: Sequence[Widths]) -> tuple[Widths, float]:
        """From the best of several widths within the limit to widths that no exchange betters.

        Returns:
            These widths, and their measured loss.
        """
        losses = self.losses(starts)
        loss, place = min((loss, i) for i, loss in enumerate(losses))
        widths = dict(starts[place])
        while self.used + 2 * len(self._names) < self._trials:
            gains, prices = self._slopes(widths, loss)
            moved: set[str] = set()
            while better := self._best_exchange(widths, loss, gains, prices, moved):
                widths, loss, pair = better
                moved |= pair
            if not moved:
                if max(self._steps.values()) == 1:
                    break
                self._steps = {name: max(1, step // 2) for name, step in self._steps.items()}
        return widths, loss

    def losses(self, wanted: Sequence[Widths]) -> list[float]:
        """Measured losses of widths; each is measured once."""
        keys = [tuple(widths[name] for name in self._names) for widths in wanted]
        pairs = zip(keys, wanted, strict=True)
        new = {key: widths for key, widths in pairs if key not in self._known}
        if new:
            self._known |= zip(new, self._measure(list(new.values())), strict=True)
        return [self._known[key] for key in keys]

    def _slopes(self, widths: Widths, loss: float) -> tuple[dict[str, float], dict[str, float]]:
        """By layer: what a step up gains, and what a step down costs."""
        ups = {name: self._step(widths, name, 1) for name in self._movable(widths, 1)}
        downs = {name: self._step(widths, name, -1) for name in self._movable(widths, -1)}
        found = self.losses([*ups.values(), *downs.values()])
        gains = {name: loss - after for name, after in zip(ups, found[: len(ups)], strict=True)}
        prices = {name: after - loss for name, after in zip(downs, found[len(ups) :], strict=True)}
        return gains, prices

    def _moved(self, widths: Widths, name: str, step: int) -> Widths | None:
        """The widths with one layer ``step`` allowed widths wider; None at its end."""
        allowed = self._allowed[name]
        place = allowed.index(widths[name])
        target = min(max(place + step, 0), len(allowed) - 1)
        return None if target == place else {**widths, name: allowed[target]}

    def _step(self, widths: Widths, name: str, sign: int) -> Widths:
        """The widths with a movable layer one step wider or narrower."""
        moved = self._moved(widths, name, sign * self._steps[name])
        assert moved is not None
        return moved

    def _step_cost(self, widths: Widths, name: str, sign: int) -> float:
        """What a step changes the cost by; 1 where it is free."""
        return abs(self._cost(self._step(widths, name, sign)) - self._cost(widths)) or 1.0

    def _movable(
        self, widths: Widths, sign: int, among: Collection[str] | None = None
    ) -> list[str]:
        """Layers that are not at their end yet, in forward order."""
        return [
            name
            for name in self._names
            if (among is None or name in among) and self._moved(widths, name, sign) is not None
        ]

    def _best_exchange(
        self,
        widths: Widths,
        loss: float,
        gains: Mapping[str, float],
        prices: Mapping[str, float],
        frozen: set[str],
    ) -> tuple[Widths, float, set[str]] | None:
        promises = []
        # An exchange before may have brought a layer to its end.
        ups = self._movable(widths, 1, gains.keys() - frozen)
        downs = self._movable(widths, -1, prices.keys() - frozen)
        for wider, narrower in product(ups, downs):
            if wider == narrower:
                continue
            ratio = self._step_cost(widths, narrower, -1) / self._step_cost(widths, wider, 1)
            promise = gains[wider] * min(1.0, ratio) - prices[narrower] * min(1.0, 1 / ratio)
            if promise > 0:
                promises.append((-promise, wider, narrower))
        tried = []
        for _, wider, narrower in sorted(promises)[:TRIED]:
            made = self._exchanged(widths, wider, narrower, gains)
            if made is not None and made != widths:
                tried.append((made, {wider, narrower}))
        if not tried or self.used + len(tried) > self._trials:
            return None
        found = self.losses([made for made, _ in tried])
        best, place = min((value, i) for i, value in enumerate(found))
        made, pair = tried[place]
        return (made, best, pair) if best < loss else None

    def _exchanged(
        self, widths: Widths, wider: str, narrower: str, gains: Mapping[str, float]
    ) -> Widths | None:
        """``narrower`` gives a step at most, ``wider`` takes one at most, rests are given away."""
        made = dict(widths)
        goal = self._step(widths, wider, 1)
        for _ in range(self._steps[narrower]):
            less = self._moved(made, narrower, -1)
            if less is None:
                break
            made = less
            if self._cost({**made, wider: goal[wider]}) <= self._limit:
                break
        made = self._fill(made, [wider], goal)
        if made[wider] == widths[wider]:
            return None
        others = sorted(
            self._movable(widths, 1, set(self._names) - {wider, narrower}),
            key=lambda name: -gains.get(name, 0.0) / self._step_cost(widths, name, 1),
        )
        return self._fill(made, [*others, wider, narrower])

    def _fill(self, widths: Widths, names: Sequence[str], goal: Widths | None = None) -> Widths:
        """The widths with layer after layer as wide as the limit (and ``goal``) lets it be."""
        for name in names:
            while (more := self._moved(widths, name, 1)) is not None:
                past = goal is not None and more[name] > goal[name]
                if past or self._cost(more) > self._limit:
                    break
                widths = more
        return widths

    def _cost(self, widths: Widths) -> int:
        return self._costs.of(self._kind, widths)
