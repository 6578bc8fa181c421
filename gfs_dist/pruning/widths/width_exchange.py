"""Widths by exchange: one layer wider, another narrower, kept where the measured loss falls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from gfs_dist.pruning.widths.costs import Costs
from gfs_dist.pruning.widths.widths import allowed_widths

Widths = dict[str, int]
Measure = Callable[[Sequence[Widths]], list[float]]
TRIED = 4
"""Exchanges measured at once, the most promising first."""


@dataclass(frozen=True)
class ExchangedWidths:
    """Widths, their measured loss, and how many trials that took."""

    widths: Widths
    loss: float
    trials: int


class WidthExchange:
    """A search over widths within a limit.

    Every round measures for each layer what a step up would gain and a step down would cost.
    Pairs are then tried in the order of what they promise, the cost freed going to the layer that
    gains, and rests to whoever gains most; the best that lowers the loss stays. Without one, steps
    are halved, down to one channel.

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
        self.costs, self.kind, self.limit = costs, kind, limit
        self.trials, self._measure = trials, measure
        self._known: dict[tuple[int, ...], float] = {}
        self.names = list(most)
        self.allowed = {
            name: allowed_widths(costs.channels[name], round_to, most[name]) for name in most
        }

    @property
    def used(self) -> int:
        """Trials so far."""
        return len(self._known)

    def run(self, starts: Sequence[Widths]) -> ExchangedWidths:
        """From the best of several widths within the limit to widths that no exchange betters."""
        losses = self.losses(starts)
        loss, place = min((loss, i) for i, loss in enumerate(losses))
        widths = dict(starts[place])
        steps = {name: max(1, len(self.allowed[name]) // 8) for name in self.names}
        while self.used + 2 * len(self.names) < self.trials:
            gains, prices = self._slopes(widths, loss, steps)
            moved = False
            frozen: set[str] = set()
            while better := self._best_exchange(widths, loss, steps, gains, prices, frozen):
                widths, loss, pair = better
                frozen |= pair
                moved = True
            if not moved:
                if max(steps.values()) == 1:
                    break
                steps = {name: max(1, step // 2) for name, step in steps.items()}
        return ExchangedWidths(widths, loss, self.used)

    def losses(self, wanted: Sequence[Widths]) -> list[float]:
        """Measured once for each widths."""
        keys = [tuple(widths[name] for name in self.names) for widths in wanted]
        pairs = zip(keys, wanted, strict=True)
        new = {key: widths for key, widths in pairs if key not in self._known}
        if new:
            self._known |= zip(new, self._measure(list(new.values())), strict=True)
        return [self._known[key] for key in keys]

    def _slopes(
        self, widths: Widths, loss: float, steps: Mapping[str, int]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """By layer: what a step up gains, and what a step down costs."""
        ups = {n: w for n in self.names if (w := self._moved(widths, n, steps[n])) is not None}
        downs = {n: w for n in self.names if (w := self._moved(widths, n, -steps[n])) is not None}
        found = self.losses([*ups.values(), *downs.values()])
        gains = {name: loss - after for name, after in zip(ups, found[: len(ups)], strict=True)}
        prices = {name: after - loss for name, after in zip(downs, found[len(ups) :], strict=True)}
        return gains, prices

    def _moved(self, widths: Widths, name: str, step: int) -> Widths | None:
        """The widths with one layer ``step`` allowed widths wider; None at its end."""
        allowed = self.allowed[name]
        place = allowed.index(widths[name])
        target = min(max(place + step, 0), len(allowed) - 1)
        return None if target == place else {**widths, name: allowed[target]}

    def _best_exchange(
        self,
        widths: Widths,
        loss: float,
        steps: Mapping[str, int],
        gains: Mapping[str, float],
        prices: Mapping[str, float],
        frozen: set[str],
    ) -> tuple[Widths, float, set[str]] | None:
        promises = []
        # An exchange before may have brought a layer to its end.
        for wider in self._movable(widths, gains.keys() - frozen, steps, 1):
            for narrower in self._movable(widths, prices.keys() - frozen, steps, -1):
                if wider == narrower:
                    continue
                ratio = self._freed(widths, narrower, steps) / self._needed(widths, wider, steps)
                promise = gains[wider] * min(1.0, ratio) - prices[narrower] * min(1.0, 1 / ratio)
                if promise > 0:
                    promises.append((-promise, wider, narrower))
        tried = []
        for _, wider, narrower in sorted(promises)[:TRIED]:
            made = self._exchanged(widths, wider, narrower, steps, gains)
            if made is not None and made != widths:
                tried.append((made, {wider, narrower}))
        if not tried or self.used + len(tried) > self.trials:
            return None
        found = self.losses([made for made, _ in tried])
        best, place = min((value, i) for i, value in enumerate(found))
        made, pair = tried[place]
        return (made, best, pair) if best < loss else None

    def _movable(
        self, widths: Widths, among: Collection[str], steps: Mapping[str, int], sign: int
    ) -> list[str]:
        """Those of the layers that are not at their end yet, in forward order."""
        return [
            name
            for name in self.names
            if name in among and self._moved(widths, name, sign * steps[name]) is not None
        ]

    def _freed(self, widths: Widths, name: str, steps: Mapping[str, int]) -> float:
        less = self._moved(widths, name, -steps[name])
        assert less is not None
        return self._cost(widths) - self._cost(less) or 1.0

    def _needed(self, widths: Widths, name: str, steps: Mapping[str, int]) -> float:
        more = self._moved(widths, name, steps[name])
        assert more is not None
        return self._cost(more) - self._cost(widths) or 1.0

    def _exchanged(
        self,
        widths: Widths,
        wider: str,
        narrower: str,
        steps: Mapping[str, int],
        gains: Mapping[str, float],
    ) -> Widths | None:
        """``narrower`` gives a step at most, ``wider`` takes one at most, rests are given away."""
        made = dict(widths)
        goal = self._moved(widths, wider, steps[wider])
        assert goal is not None
        for _ in range(steps[narrower]):
            less = self._moved(made, narrower, -1)
            if less is None:
                break
            made = less
            if self._cost({**made, wider: goal[wider]}) <= self.limit:
                break
        made = self._fill(made, [wider], goal)
        if made[wider] == widths[wider]:
            return None
        others = sorted(
            self._movable(widths, set(self.names) - {wider, narrower}, steps, 1),
            key=lambda name: -gains.get(name, 0.0) / self._needed(widths, name, steps),
        )
        return self._fill(made, [*others, wider, narrower], None)

    def _fill(self, widths: Widths, names: Sequence[str], goal: Widths | None) -> Widths:
        for name in names:
            while (more := self._moved(widths, name, 1)) is not None:
                past = goal is not None and more[name] > goal[name]
                if past or self._cost(more) > self.limit:
                    break
                widths = more
        return widths

    def _cost(self, widths: Widths) -> int:
        return self.costs.of(self.kind, widths)
