"""Widths of all layers together: the least summed loss that a limit on the cost allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gfs_dist.pruning.widths.budget import allowed_widths
from gfs_dist.pruning.widths.costs import Cost, Costs, Integers

Floats = npt.NDArray[np.float64]

# The price of the cost is sought among the powers of 2 from -60 to 60, times the losses' spread
# over the dense cost: beyond them nothing, or nothing but the cost, counts in float64.
EXPONENT = 60.0
HALVINGS = 40
SWEEPS = 20
ROUNDING = 1e-12
MIXES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Weights of the first of two costs in a price of both."""


def allocate(
    curves: Mapping[str, Sequence[float]],
    costs: Costs,
    limits: Mapping[str, int],
    round_to: int = 1,
) -> dict[str, int]:
    """Share limits out over layers so that the sum of their losses is least.

        minimise sum_l best_l(w_l)  subject to  cost_k(w) <= limit_k for every kind k
        best_l(w) = min over k <= w of curve_l(k)

    Costs of neighbouring layers multiply, so this has no closed form. Prices: at a price of the
    cost, every layer in turn takes the width with the least loss plus price times cost, until
    no layer changes; the price is bisected until the limit is met. Exchanges: one layer gets wider,
    another as narrow as that needs, as long as such a pair lowers the sum; they reach the widths
    off the convex hull that no price does. The rest is shared out as by :func:`proportional`: in
    the end no layer can have its next width without passing a limit. (Against dynamic
    programming and full enumeration: mostly the same sum, at worst one above it by a hundredth
    of the losses' span.) Under several limits the price is of their costs' mean, each in units of
    its limit, with one of :data:`MIXES` as weights; of what they lead to the least sum is taken.

    The same arguments give the same widths; of equal choices the first layer's is taken.

    Args:
        curves: by layer the loss with 1, 2, ... channels kept; need not fall all the way, and may
            end before the layer is whole: then that is the most it gets. Layers without a curve
            stay whole.
        costs: of the network.
        limits: by kind, ``macs`` and ``params``, the largest allowed cost; the smallest widths
            must meet them.
        round_to: widths are multiples of this (see :func:`allowed_widths`).

    Returns:
        The width of each layer that has a curve, in forward order.
    """
    assert curves.keys() <= costs.channels.keys(), curves.keys() - costs.channels.keys()
    widths, losses = [], []
    for name, channels in costs.channels.items():
        best = np.minimum.accumulate(np.asarray(curves.get(name, [0.0] * channels), np.float64))
        assert np.isfinite(best).all(), name
        allowed = allowed_widths(channels, round_to, len(best)) if name in curves else [channels]
        widths.append(np.array(allowed, np.int64))
        losses.append(best[np.array(allowed) - 1])
    bounds = [(costs.kinds[kind], limit) for kind, limit in limits.items()]
    searches = []
    for mix in _mixes([limit for _, limit in bounds]):
        searches.append(search := _WidthSearch(widths, losses, bounds))
        search.price(mix)
        search.exchange()
        search.fill(np.array(list(costs.channels.values())))
    least = min(searches, key=lambda search: search.loss)
    chosen = dict(zip(costs.channels, least.widths.tolist(), strict=True))
    return {name: width for name, width in chosen.items() if name in curves}


def proportional(
    costs: Costs,
    limits: Mapping[str, int],
    round_to: int = 1,
    most: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """About the same share of every layer, as much as limits on the cost allow.

    From the smallest widths on, the layer with the smallest share of its channels gets its next
    width if that stays within the limits, until none does.

    Args:
        costs, limits, round_to: see :func:`allocate`.
        most: by layer the largest width; None for all channels of each.
    """
    most = costs.channels if most is None else most
    allowed = [allowed_widths(n, round_to, most[name]) for name, n in costs.channels.items()]
    widths = [np.array(choices, np.int64) for choices in allowed]
    bounds = [(costs.kinds[kind], limit) for kind, limit in limits.items()]
    search = _WidthSearch(widths, [np.zeros(len(w)) for w in widths], bounds)
    search.fill(np.array(list(costs.channels.values())))
    return dict(zip(costs.channels, search.widths.tolist(), strict=True))


def _mixes(limits: Sequence[int]) -> list[tuple[float, ...]]:
    """Weights of the costs in a price; costs are in units of their limits, the first in its own."""
    if len(limits) == 1:
        return [(1.0,)]
    first, second = limits
    return [(mix, (1.0 - mix) * first / max(second, 1)) for mix in MIXES]


class _WidthSearch:
    """A choice among the allowed widths of each of n layers, and ways to improve it.

    It starts from the smallest widths, which must meet the limits; no limit is ever passed.

    Args:
        allowed: widths of each layer, ascending.
        losses: of each of these widths, never rising.
        bounds: costs of the network, and the limit on each.

    Attributes:
        widths: chosen so far, (n,).
    """

    def __init__(
        self,
        allowed: list[Integers],
        losses: list[Floats],
        bounds: Sequence[tuple[Cost, int]],
    ) -> None:
        self._allowed, self._losses = allowed, losses
        self._bounds = [_Bound(cost, limit) for cost, limit in bounds]
        self._most = np.array([widths[-1] for widths in allowed])
        self._spread = max(float(loss[0] - loss[-1]) for loss in losses)
        # At [i, v] the number of layer i's last choice that is at most v wide, -1 without one.
        wide = np.arange(self._most.max() + 1)
        self._numbers = np.stack([np.searchsorted(w, wide, "right") for w in allowed]) - 1
        # At [i, c] the loss of layer i's choice c, infinite where there is no such choice.
        self._table = np.full((len(losses), max(map(len, losses)) + 1), np.inf)
        for row, loss in zip(self._table, losses, strict=True):
            row[: len(loss)] = loss
        self.widths = np.array([widths[0] for widths in allowed])
        assert self._fits(self.widths), [(b.cost(self.widths), b.limit) for b in self._bounds]

    @property
    def loss(self) -> float:
        """The sum over layers."""
        return float(self._table[np.arange(len(self.widths)), self._choices].sum())

    def _fits(self, widths: Integers) -> bool:
        return all(bound.cost(widths) <= bound.limit for bound in self._bounds)

    def price(self, mix: Sequence[float]) -> None:
        """Take the widths at the lowest price of the cost at which they meet the limits.

        Args:
            mix: weights of the costs in the one that has the price.
        """
        parts = list(zip(mix, self._bounds, strict=True))
        linear = np.sum([weight * bound.cost.linear for weight, bound in parts], axis=0)
        squares = np.sum([weight * bound.squares for weight, bound in parts], axis=0)
        mixed = np.sum([weight * bound.mixed for weight, bound in parts], axis=0)
        whole = sum(weight * bound.cost(self._most) for weight, bound in parts)
        unit = (self._spread or 1.0) / whole
        low, high = -EXPONENT, EXPONENT
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            price = unit * 2.0**middle
            widths = self._at_price(price, linear, squares, mixed)
            if self._fits(widths):
                high, self.widths = middle, widths
            else:
                low = middle

    def _at_price(self, price: float, linear: Floats, squares: Floats, mixed: Floats) -> Integers:
        """Widths that no layer alone would change, given the others' and the price."""
        widths = self._most.copy()
        for _ in range(SWEEPS):
            before = widths.copy()
            for i, (allowed, losses) in enumerate(zip(self._allowed, self._losses, strict=True)):
                slope = linear[i] + mixed[i] @ widths
                spent = slope * allowed + squares[i] * allowed**2
                widths[i] = allowed[np.argmin(losses + price * spent)]
            if (widths == before).all():
                break
        return widths

    def exchange(self) -> None:
        """Make one layer wider and another narrower as long as that lowers the sum of losses."""
        while sum(map(self._exchange_for, range(len(self._allowed)))):
            pass

    def _exchange_for(self, i: int) -> bool:
        """Make layer ``i`` wider at the expense of the best other one, if any such pair is a gain.

        For each wider choice (columns) every other layer (rows) keeps as much of its width as the
        limit then allows.
        """
        wider = self._allowed[i][self._allowed[i] > self.widths[i]]
        if not len(wider):
            return False
        kept = np.min([bound.affordable(self.widths, i, wider) for bound in self._bounds], axis=0)
        choices = np.take_along_axis(self._numbers, kept, 1)
        now = np.take_along_axis(self._table, self._choices[:, None], 1)
        gain = now - np.take_along_axis(self._table, choices, 1)
        gain += now[i] - self._table[i, self._numbers[i, wider]]
        gain[i] = -np.inf
        j, case = divmod(int(np.argmax(gain)), len(wider))
        if not gain[j, case] > ROUNDING * self._spread:
            return False
        self.widths[i] = wider[case]
        self.widths[j] = self._allowed[j][choices[j, case]]
        return True

    @property
    def _choices(self) -> Integers:
        return self._numbers[np.arange(len(self.widths)), self.widths]

    def fill(self, channels: Integers) -> None:
        """Give the layer with the smallest share of its channels its next width, until none fits.

        Args:
            channels: of the whole layers (n,); a path may end before.
        """
        last = np.array([len(widths) - 1 for widths in self._allowed])
        while True:
            following = np.minimum(self._choices + 1, last)
            pairs = zip(self._allowed, following, strict=True)
            wider = np.array([widths[choice] for widths, choice in pairs])
            fits = wider > self.widths
            for bound in self._bounds:
                fits &= bound.rises(self.widths, wider) <= bound.room(self.widths)
            if not fits.any():
                return
            share = np.where(fits, self.widths / channels, np.inf)
            i = int(np.argmin(share))
            self.widths[i] = wider[i]


class _Bound:
    """A cost of n layers, its limit, and what changes of widths make of them.

    Attributes:
        squares: (n,) and ``mixed`` (n, n): the pairs of a layer with itself, and with the others.
    """

    def __init__(self, cost: Cost, limit: int) -> None:
        self.cost, self.limit = cost, limit
        self.squares = np.diag(cost.pairs)
        self.mixed = cost.pairs + cost.pairs.T - 2 * np.diag(self.squares)

    def room(self, widths: Integers) -> int:
        return self.limit - self.cost(widths)

    def slopes(self, widths: Integers) -> Integers:
        """Cost of one more candidate of each layer, squares apart."""
        return self.cost.linear + self.mixed @ widths

    def rises(self, widths: Integers, wider: Integers) -> Integers:
        """What each layer alone at another width adds to the cost."""
        return self.slopes(widths) * (wider - widths) + self.squares * (wider**2 - widths**2)

    def affordable(self, widths: Integers, i: int, wider: Integers) -> Integers:
        """The largest width, at most the present one, to which the limit lets each layer go.

        Args:
            widths: at present.
            i: a layer that gets wider.
            wider: (c,) its widths in c cases.

        Returns:
            (n, c); 0 where no width makes enough room.
        """
        more = wider - widths[i]
        rise = self.slopes(widths)[i] * more + self.squares[i] * (wider**2 - widths[i] ** 2)
        slopes = self.slopes(widths)[:, None] + self.mixed[:, i, None] * more
        room = self.room(widths) - rise
        now, squares = widths[:, None], self.squares[:, None]
        fits = now + room // slopes
        if squares.any():  # the largest w with squares w^2 + slopes w <= total
            total = room + slopes * now + squares * now**2
            root = np.sqrt(np.maximum(slopes.astype(np.float64) ** 2 + 4.0 * squares * total, 0.0))
            width = ((root - slopes) / np.maximum(2 * squares, 1)).astype(np.int64) + 1
            width -= squares * width**2 + slopes * width > total
            width -= squares * width**2 + slopes * width > total
            fits = np.where(squares > 0, width, fits)
        return np.clip(fits, 0, now)
