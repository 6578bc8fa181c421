"""Widths improved by measuring: never worse than the start, within the limit, nothing left over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gfs_dist.pruning.widths.allocate import proportional
from gfs_dist.pruning.widths.budget import allowed_widths
from gfs_dist.pruning.widths.costs import Cost, Costs
from gfs_dist.pruning.widths.width_exchange import WidthExchange, Widths


class Case:
    """A random network of few and narrow layers, some of whose paths end early, and its loss."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 6))
        self.channels = {f"layer{i}": int(rng.choice([2, 3, 5, 8, 20])) for i in range(count)}
        pairs = np.triu(rng.integers(0, 9, (count, count)), 1)
        cost = Cost(7, rng.integers(1, 50, count), pairs)
        self.costs = Costs(self.channels, {"macs": cost})
        self.round_to = int(rng.choice([1, 2, 4]))
        least = self.costs.of("macs", self.costs.least(self.round_to))
        self.limit = int(rng.integers(least, self.costs.dense("macs") + 1))
        ends = rng.integers(1, list(self.channels.values()), endpoint=True)
        self.most = dict(zip(self.channels, ends.tolist(), strict=True))
        self.trials = int(rng.choice([10, 60, 300]))
        self.scales = dict(zip(self.channels, rng.lognormal(size=count).tolist(), strict=True))
        self.measured = 0

    def measure(self, wanted: Sequence[Widths]) -> list[float]:
        """Falling in each width, and bumpy."""
        self.measured += len(wanted)
        return [
            sum(self.scales[name] / width for name, width in widths.items())
            + 0.1 * float(np.sin(sum(widths.values())))
            for widths in wanted
        ]


@pytest.mark.parametrize("seed", range(12))
def test_widths_get_better_and_no_layer_could_have_more(seed: int) -> None:
    case = Case(seed)
    costs, most, round_to = case.costs, case.most, case.round_to
    start = proportional(costs, case.limit, round_to=round_to, most=most)
    search = WidthExchange(costs, "macs", case.limit, case.measure, case.trials, most, round_to)
    widths, loss = search.run([start])
    assert search.used == case.measured <= case.trials
    assert loss == case.measure([widths])[0] <= case.measure([start])[0]
    assert costs.of("macs", widths) <= case.limit
    for name, width in widths.items():
        allowed = allowed_widths(case.channels[name], round_to, most[name])
        assert width in allowed
        wider = [w for w in allowed if w > width]
        assert not wider or costs.of("macs", {**widths, name: wider[0]}) > case.limit, name
