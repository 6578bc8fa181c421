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


def allocate(
    curves: Mapping[str, Sequence[float]],
    costs: Costs,
    limit: int,
    kind: str = "macs",
    round_to: int = 1,
) -> dict[str, int]:
    """Share a limit out over layers so that the sum of their losses is least.

        minimise sum_l best_l(w_l)  subject to  cost(w) <= limit
        best_l(w) = min over k <= w of curve_l(k)

    Costs of neighbouring layers multiply, so this has no closed form. Prices: at a price of the
    cost, every layer in turn takes the width with the least loss plus price times cost, until
    no layer changes; the price is bisected until the limit is met. Exchanges: one layer gets wider,
    another as narrow as that needs, as long as such a pair lowers the sum; they reach the widths
    off the convex hull that no price does. The rest is shared out as by :func:`proportional`: in
    the end no layer can have its next width without passing the limit. (Against dynamic
    programming and full enumeration: mostly the same sum, at worst one above it by a hundredth
    of the losses' span.)

    The same arguments give the same widths; of equal choices the first layer's is taken.

    Args:
        curves: by layer the loss with 1, 2, ... channels kept; need not fall all the way, and may
            end before the layer is whole: then that is the most it gets. Layers without a curve
            stay whole.
        costs: of the network.
        limit: the largest allowed cost; the smallest widths must meet it.
        kind: of the cost, ``macs`` or ``params``.
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
    search = _WidthSearch(widths, losses, costs.kinds[kind], limit)
    search.price()
    search.exchange()
    search.fill(np.array(list(costs.channels.values())))
    chosen = dict(zip(costs.channels, search.widths.tolist(), strict=True))
    return {name: width for name, width in chosen.items() if name in curves}


def proportional(
    costs: Costs,
    limit: int,
    kind: str = "macs",
    round_to: int = 1,
    most: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """About the same share of every layer, as much as a limit on the cost allows.

    From the smallest widths on, the layer with the smallest share of its channels gets its next
    width if that stays within the limit, until none does.

    Args:
        costs, limit, kind, round_to: see :func:`allocate`.
        most: by layer the largest width; None for all channels of each.
    """
    most = costs.channels if most is None else most
    allowed = [allowed_widths(n, round_to, most[name]) for name, n in costs.channels.items()]
    widths = [np.array(choices, np.int64) for choices in allowed]
    search = _WidthSearch(widths, [np.zeros(len(w)) for w in widths], costs.kinds[kind], limit)
    search.fill(np.array(list(costs.channels.values())))
    return dict(zip(costs.channels, search.widths.tolist(), strict=True))


class _WidthSearch:
    """A choice among the allowed widths of each of n layers, and ways to improve it.

    It starts from the smallest widths, which must meet the limit; the limit is never passed.

    Args:
        allowed: widths of each layer, ascending.
        losses: of each of these widths, never rising.
        cost: of the network.
        limit: on the cost.

    Attributes:
        widths: chosen so far, (n,).
    """

    def __init__(
        self, allowed: list[Integers], losses: list[Floats], cost: Cost, limit: int
    ) -> None:
        self._allowed, self._losses, self._cost, self._limit = allowed, losses, cost, limit
        self._squares = np.diag(cost.pairs)
        self._mixed = cost.pairs + cost.pairs.T - 2 * np.diag(self._squares)
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
        assert cost(self.widths) <= limit, f"{cost(self.widths)} > {limit}"

    def price(self) -> None:
        """Take the widths at the lowest price of the cost at which they meet the limit."""
        unit = (self._spread or 1.0) / self._cost(self._most)
        low, high = -EXPONENT, EXPONENT
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            widths = self._at_price(unit * 2.0**middle)
            if self._cost(widths) <= self._limit:
                high, self.widths = middle, widths
            else:
                low = middle

    def _at_price(self, price: float) -> Integers:
        """Widths that no layer alone would change, given the others' and the price."""
        widths = self._most.copy()
        for _ in range(SWEEPS):
            before = widths.copy()
            for i, (allowed, losses) in enumerate(zip(self._allowed, self._losses, strict=True)):
                slope = self._cost.linear[i] + self._mixed[i] @ widths
                spent = slope * allowed + self._squares[i] * allowed**2
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
        more = wider - self.widths[i]
        rise = self._slopes[i] * more + self._squares[i] * (wider**2 - self.widths[i] ** 2)
        slopes = self._slopes[:, None] + self._mixed[:, i, None] * more
        kept = self._affordable(slopes, self._limit - self._cost(self.widths) - rise)
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

    @property
    def _slopes(self) -> Integers:
        """Cost of one more candidate of each layer, squares apart."""
        return self._cost.linear + self._mixed @ self.widths

    def _affordable(self, slopes: Integers, room: Integers) -> Integers:
        """The largest width, at most the present one, to which the limit lets each layer go.

        Args:
            slopes: (n, c) cost of one more candidate of each layer in c cases, squares apart.
            room: (c,) rest of the limit in each case; below 0, widths have to shrink.

        Returns:
            (n, c); 0 where no width makes enough room.
        """
        now, squares = self.widths[:, None], self._squares[:, None]
        fits = now + room // slopes
        if squares.any():  # the largest w with squares w^2 + slopes w <= total
            total = room + slopes * now + squares * now**2
            root = np.sqrt(np.maximum(slopes.astype(np.float64) ** 2 + 4.0 * squares * total, 0.0))
            width = ((root - slopes) / np.maximum(2 * squares, 1)).astype(np.int64) + 1
            width -= squares * width**2 + slopes * width > total
            width -= squares * width**2 + slopes * width > total
            fits = np.where(squares > 0, width, fits)
        return np.clip(fits, 0, now)

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
            rise = self._slopes * (wider - self.widths)
            rise += self._squares * (wider**2 - self.widths**2)
            room = self._limit - self._cost(self.widths)
            fits = (wider > self.widths) & (rise <= room)
            if not fits.any():
                return
            share = np.where(fits, self.widths / channels, np.inf)
            i = int(np.argmin(share))
            self.widths[i] = wider[i]
