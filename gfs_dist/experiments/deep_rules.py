"""Rules of the tables: which channels stay, how many of each layer, what is mended after a cut."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from gfs_dist.pruning.cut import Repairs
from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.choose import choose_widths

CANDIDATES = 50
"""Channels that a step of the paper's rule scores at most, as the public code has it."""

HALVINGS = 7
"""How finely the tolerance of the paper's rule is sought: to a share of 0.008 of the top-1."""

Widths = dict[str, int]


def by_tolerance(
    pruner: Pruner, budget: Budget, tick: Callable[[], None]
) -> tuple[Widths, float | None]:
    """Widths by one tolerance of top-1 for all layers, the least that meets a budget.

    The paper gives no tolerance, only the multiply-adds that were left. What the tolerance leaves
    of the budget goes to the first layers, up to the widths that the next smaller one has.
    """
    costs, limit = pruner.costs, pruner.costs.limits(budget)["macs"]
    small, large = Fraction(0), Fraction(1)
    wide = {name: len(path.curve) for name, path in pruner.paths.items()}  # may end early
    widths = costs.least()
    for _ in range(HALVINGS):
        middle = (small + large) / 2
        allowed = Budget({"tolerance": middle})
        found = dict(choose_widths(pruner, allowed, lambda *_: tick()).widths)
        if costs.of("macs", found) <= limit:
            large, widths = middle, found
        else:
            small, wide = middle, found
    for name, width in widths.items():
        more = range(width, wide[name] + 1)
        fitting = [w for w in more if costs.of("macs", {**widths, name: w}) <= limit]
        widths[name] = max(fitting, default=width)
    return widths, float(large)


def by_trials(
    pruner: Pruner, budget: Budget, tick: Callable[[], None]
) -> tuple[Widths, float | None]:
    """Widths by measured difference from the dense network, as ``gfs prune`` shares them out."""
    return choose_widths(pruner, budget, lambda *_: tick()).widths, None


class Rule(NamedTuple):
    """How channels are picked, how many of each layer stay, and what is mended after the cut."""

    settings: Settings
    widths: Callable[[Pruner, Budget, Callable[[], None]], tuple[Widths, float | None]]
    repairs: Repairs


RULES = {
    "paper": Rule(
        Settings("network_loss", candidates=CANDIDATES), by_tolerance, Repairs(refit=False)
    ),
    "line_search": Rule(
        Settings("layer_output", weights="line_search"), by_tolerance, Repairs(refit=False)
    ),
    "least_squares": Rule(Settings("least_squares"), by_trials, Repairs()),
}
"""Rules by name. The paper's: of at most 50 channels the one that makes the network's loss on 128
images least, each pick of k weighing 1/k, up to a tolerance of top-1; batch norms are measured
again. By line search: picks with the best weights towards the output of the layer that reads them,
for a search that draws its candidates ends where a draw lowers no loss; all else as the paper's.
Ours: least squares with every layer after a cut refitted."""

CONTROL = "unpruned"
"""The rule that removes nothing: what fine-tuning alone does to the same checkpoints."""

UNPRUNED: dict[str, Any] = {"macs_kept": 1.0, "params_kept": 1.0, "tolerance": None, "widths": {}}

DIFFERENCES = (
    "All steps of a layer's search see the same 128 calibration images; the public code draws "
    "new ones at each step.",
    "Layers are searched with all others dense, and none is trained before the next one; after "
    "the cut batch norms are measured again. The public code goes from the first layer to the "
    "last with those before cut already, and trains a tenth of an epoch after each.",
    "The paper gives no tolerance: here it is the least that meets the multiply-adds.",
    "Only widths inside of blocks are pruned, not those of residual streams.",
)
"""How the paper's rule here differs from the paper and the public code of Ye et al. 2020."""
