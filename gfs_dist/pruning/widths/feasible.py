"""Refuses budgets that a network cannot meet, before any search, and names the reasons."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction

from torch import nn

from gfs_dist.errors import BudgetError, ConfigError
from gfs_dist.networks import latency, macs_by_module
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.inputs import repeated
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.widths.budget import UNITS, Budget, allowed_widths, nearest, percent
from gfs_dist.pruning.widths.costs import Costs
from gfs_dist.pruning.widths.forward_memory import forward_bytes

MOST_TOLD, LEAST_TOLD, REASON = 3, 0.01, 160
"""Modules that :func:`describe_fixed_parts` names, the least share, and characters of a reason."""


def check_feasible(pruner: Pruner, budget: Budget) -> None:
    """Refuse a budget that no widths of a network meet.

    The smallest widths are the least of every kind: limits that can be met one by one, can be met
    together.

    Raises:
        ConfigError, BudgetError: see :func:`check_costs` and :func:`check_measured`.
        InputError: a tolerance of top-1, and samples without class numbers.
    """
    if budget.kind == "tolerance":
        pruner.workspace.require_labels("budget.tolerance")
    costs, least = pruner.costs, pruner.costs.least(budget.round_to)
    kind = ""
    try:
        check_costs(budget, costs)
        for kind, measure in MEASURES.items():
            if kind in budget.shares:
                dense, smallest = (measure(pruner, w, budget.batch) for w in ({}, least))
                check_measured(budget, kind, dense, smallest)
    except BudgetError as error:
        missed = [k for k, limit in costs.limits(budget).items() if costs.of(k, least) > limit]
        about = [*missed, "params" if kind == "memory" else "macs"][0]
        stays = describe_fixed_parts(pruner, about, least)
        raise BudgetError(f"{error}; {stays}" if stays else str(error)) from error


def check_costs(budget: Budget, costs: Costs) -> None:
    """Refuse widths that a network cannot have, and costs that none of its widths meets.

    Raises:
        ConfigError: a layer that does not exist, or a width that it cannot have.
        BudgetError: even the smallest network costs more; says what the least is.
    """
    for name, width in budget.widths.items():
        if name not in costs.channels:
            known = nearest(name, costs.channels) or f"; accepted {', '.join(costs.channels)}"
            raise ConfigError(f"budget.widths: no layer {name!r} that can be pruned{known}")
        allowed = allowed_widths(costs.channels[name], budget.round_to)
        if width not in allowed:
            kind = "a whole number" if budget.round_to == 1 else f"a multiple of {budget.round_to}"
            whole = f", or {allowed[-1]}" if allowed[-1] % budget.round_to else ""
            raise ConfigError(
                f"budget.widths: {name}: found {width}, accepted {kind} from {allowed[0]} to "
                f"{allowed[-1]}{whole}"
            )
    for kind, limit in costs.limits(budget).items():
        least = costs.of(kind, costs.least(budget.round_to))
        if least > limit:
            each = "1 channel" if budget.round_to == 1 else f"{budget.round_to} channels (or all)"
            raise BudgetError(
                f"budget.{kind}: found {percent(budget.shares[kind])} ({limit:,} {UNITS[kind]}), "
                f"but with {each} in every layer it is still "
                f"{_reachable(Fraction(least, costs.dense(kind)))} ({least:,}): no widths cost less"
            )


def _reachable(share: Fraction) -> str:
    """Rounded up to a hundredth of a percent, so that it can be typed and met."""
    return percent(Fraction(math.ceil(10_000 * share), 10_000))


def check_measured(budget: Budget, kind: str, dense: float, least: float) -> None:
    """Refuse a limit on what is measured that not even the smallest network meets.

    Args:
        budget: with such a limit.
        kind: of the limit, one of :data:`MEASURES`.
        dense: what the dense network takes, in seconds or bytes.
        least: what the network with the smallest allowed widths takes.

    Raises:
        BudgetError: says what the smallest network takes.
    """
    limit = float(budget.shares[kind]) * dense
    if least > limit:
        most, found = (
            f"{1e3 * value:.3g} ms" if kind == "latency" else f"{value:,.0f} bytes"
            for value in (limit, least)
        )
        raise BudgetError(
            f"budget.{kind}: found {percent(budget.shares[kind])} ({most} at batch "
            f"{budget.batch}), but the smallest network takes {found} "
            f"({_reachable(Fraction(f'{least / dense:.6f}'))})"
            f"{' on this device' if kind == 'latency' else ''}"
        )


def measure_seconds(pruner: Pruner, widths: Mapping[str, int], batch: int) -> float:
    """Median of five forward passes of a network of these widths (any channels)."""
    network = pruner.cut(KeptChannels.first(widths))
    x = repeated(pruner.example, batch)
    return latency(network, x, repeats=5).median_s


def measure_bytes(pruner: Pruner, widths: Mapping[str, int], batch: int) -> float:
    """:func:`.forward_bytes` of a network of these widths."""
    network = pruner.cut(KeptChannels.first(widths))
    return forward_bytes(network, repeated(pruner.example, batch))


MEASURES: dict[str, Callable[[Pruner, Mapping[str, int], int], float]] = {
    "latency": measure_seconds,
    "memory": measure_bytes,
}
"""Limits on what a network takes, measured once it is cut to some widths, at a batch of inputs."""


def describe_fixed_parts(pruner: Pruner, kind: str, least: Mapping[str, int]) -> str:
    """The parts of the smallest network that cannot be removed and why, largest first.

    Args:
        pruner: with the structure of the dense network.
        kind: of the cost, ``macs`` or ``params``.
        least: smallest allowed width of each layer.

    Returns:
        a few modules with their shares of the dense network's cost; empty where none has
        a share worth telling.
    """
    small = pruner.cut(KeptChannels.first(least))
    costs = Counter(macs_by_module(small, pruner.example) if kind == "macs" else _params(small))
    reasons = {skip.name: skip.reason for skip in pruner.structure.skipped}
    for layer in pruner.structure.layers:
        whole = least[layer.name] == layer.num_candidates
        reason = f"{layer.num_candidates} channels, kept by budget.round_to" if whole else ""
        reasons |= {part.module: reason for part in layer.cut_slices}
    modules = dict(small.named_modules())
    told = []
    for name, cost in costs.most_common():
        share = cost / pruner.costs.dense(kind)
        kind_of = type(modules.get(name, small))
        reason = f"{kind_of.__name__}, which is no convolution or linear layer"
        if kind_of in (nn.Module, GraphNetwork):  # a mere container of layers
            reason = "parameters outside of layers"
        reason = reasons.get(name, reason)
        if reason and share >= LEAST_TOLD:
            told.append(f"{name!r} keeps {share:.1%} ({textwrap.shorten(reason, REASON)})")
    more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return f"of the {UNITS[kind]} {', '.join(told[:MOST_TOLD] + more)}" if told else ""


def _params(network: nn.Module) -> Counter[str]:
    """Parameters by the module that has them; those of the network itself by their own names."""
    found: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        found[name.rpartition(".")[0] or name] += parameter.numel()
    return found
