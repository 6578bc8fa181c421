"""Widths for a budget: proposed from the paths, compared on really cut networks, improved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from gfs_dist.errors import BudgetError
from gfs_dist.networks import latency
from gfs_dist.networks.measure.loss_and_accuracy import classify
from gfs_dist.pruning.facts import what_stays
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.widths.allocate import allocate, proportional
from gfs_dist.pruning.widths.budget import UNITS, Budget
from gfs_dist.pruning.widths.latency import check_latency, widths_within
from gfs_dist.pruning.widths.width_exchange import WidthExchange, Widths
from gfs_dist.pruning.widths.width_trial import WidthTrial
from gfs_dist.pruning.widths.widths import allowed_widths, least_widths, uniform

TRIAL_SAMPLES = 256
COMPARED = 3
TRIAL_MULTIPLY_ADDS = 2**43
LEAST_TRIALS = 4
QUICK = 2
"""How much measuring goes into widths: 256 samples to fit and three times as many others to
compare, and as many trials as cost 9e12 multiply-adds of forward passes (ResNet20 at 32x32: 211),
but at least four a layer. Quickly: the starting widths alone.

To compare costs a forward pass, to fit several times that, and what is least on few samples is
least by luck: on ResNet20 at 35 % of its inner multiply-adds widths compared on 256 samples gave
79.4 % (105 trials) and 79.7 % (162), on 768 samples 83.1 % (168 trials; CIFAR-10's test images,
no fine-tuning)."""

OnTrial = Callable[[int, int, float], None]


@dataclass(frozen=True)
class ChosenWidths:
    """Widths, and why these.

    Attributes:
        widths: by layer.
        rule: ``measured``, ``keep``, ``widths``, ``latency`` or ``tolerance``.
        reason: a sentence for the report.
        compared: rows ``rule``, ``loss``: rules measured against each other, the mean divergence
            from the dense network's outputs in nats.
    """

    widths: Widths
    rule: str
    reason: str
    compared: list[dict[str, Any]] = field(default_factory=list)


def check_feasible(pruner: Pruner, budget: Budget) -> None:
    """Refuse a budget that cannot be met, before any search.

    Raises:
        ConfigError, BudgetError: see :meth:`Budget.check` and :func:`check_latency`.
        InputError: a tolerance of top-1, and samples without class numbers.
    """
    if budget.kind == "tolerance":
        pruner.workspace.require_labels("budget.tolerance")
    least = least_widths(pruner.costs.channels, budget.round_to)
    try:
        budget.check(pruner.costs)
        if budget.kind == "latency":
            check_latency(budget, _seconds(pruner, {}, budget), _seconds(pruner, least, budget))
    except BudgetError as error:
        stays = what_stays(pruner, "params" if budget.kind == "params" else "macs", least)
        raise BudgetError(f"{error}; {stays}" if stays else str(error)) from error


def choose_widths(
    pruner: Pruner,
    budget: Budget,
    on_trial: OnTrial = lambda *_: None,
    *,
    quick: bool = False,
) -> ChosenWidths:
    """Widths that meet a budget.

    ``macs`` and ``params``: widths by the curves (errors in units of the stream, added up) and
    the same share everywhere are cut, refitted and measured; from the better, exchanges of width
    between layers stay where the measured divergence falls. (Sums of single layers' errors do not
    see how layers' errors meet: on ResNet20 at 35 % exchanges took the divergence from 0.73 to
    0.51 nats.)

    Args:
        pruner: with the paths of all layers.
        budget: feasible.
        on_trial: called with trials made, the most there will be, and the least loss.
        quick: no exchanges, where the budget does not say how many trials.
    """
    if budget.kind in UNITS:
        return _measured(pruner, budget, on_trial, quick)
    if budget.kind == "keep":
        widths = uniform(pruner.costs.channels, budget.share, budget.round_to)
        reason = "the same share of every layer, as asked"
    elif budget.kind == "widths":
        widths, reason = {**pruner.costs.channels, **budget.widths}, "as asked"
    elif budget.kind == "latency":
        widths, reason = _fast_enough(pruner, budget), "errors added up, latency measured"
    else:
        widths = _tolerant(pruner, budget, on_trial)
        reason = "layer by layer the fewest channels within the tolerance of top-1 (the paper's)"
    return ChosenWidths(_reached(pruner, widths, budget.round_to), budget.kind, reason)


def _reached(pruner: Pruner, widths: Widths, round_to: int) -> Widths:
    """``widths``, where a path does not reach one the largest allowed that it does reach."""
    found = {}
    for name, path in pruner.paths.items():
        most = len(path.curve)
        allowed = allowed_widths(pruner.costs.channels[name], round_to, most)
        found[name] = widths[name] if widths[name] <= most else allowed[-1]
    return found


def _measured(pruner: Pruner, budget: Budget, on_trial: OnTrial, quick: bool) -> ChosenWidths:
    limit, costs = budget.limit(pruner.costs), pruner.costs
    task, trials = _trials(pruner)
    trials = budget.trials or (QUICK if quick else trials)
    done, best = 0, float("inf")

    def measure(wanted: Sequence[Widths]) -> list[float]:
        nonlocal done, best
        items = [pruner.keep(widths, fold=False) for widths in wanted]
        losses = list(pruner.runtime.map(task, items).values)
        done, best = done + len(losses), min(best, *losses)
        on_trial(done, trials, best)
        return losses

    most = {name: len(found.curve) for name, found in pruner.paths.items()}
    exchange = WidthExchange(costs, budget.kind, limit, measure, trials, most, budget.round_to)
    starts = {
        "curves": by_curves(pruner, limit, budget.kind, budget.round_to),
        "same share": proportional(costs, limit, budget.kind, budget.round_to, most),
    }
    compared: list[dict[str, Any]] = [
        {"rule": rule, "loss": loss}
        for rule, loss in zip(starts, exchange.losses(list(starts.values())), strict=True)
    ]
    found = exchange.run(list(starts.values()))
    if found.trials > len(starts):
        compared.append({"rule": f"exchanges, {found.trials} trials", "loss": found.loss})
    samples = len(task.compared) * len(pruner.workspace.x(0))
    reason = (
        f"widths of least divergence from the dense network's outputs: {found.loss:.4f} nats on "
        f"{samples} samples after one refit (errors of single layers added up: "
        f"{compared[0]['loss']:.4f}, the same share of every layer: {compared[1]['loss']:.4f})"
    )
    return ChosenWidths(found.widths, "measured", reason, compared)


def by_curves(pruner: Pruner, limit: int, kind: str = "macs", round_to: int = 1) -> Widths:
    """Widths that make the sum of all layers' errors least."""
    curves = {name: found.curve for name, found in pruner.paths.items()}
    return allocate(curves, pruner.costs, limit, kind, round_to)


def _trials(pruner: Pruner) -> tuple[WidthTrial, int]:
    workspace = pruner.workspace
    per_chunk = len(workspace.x(0))
    chunks = min(workspace.num_chunks, max(1, TRIAL_SAMPLES // per_chunk))
    fitted = tuple(range(chunks))
    others = tuple(range(chunks, min((1 + COMPARED) * chunks, workspace.num_chunks)))
    compared = others if len(others) * 2 >= chunks else fitted
    sites = pruner.consumer_sites(pruner.structure.layers)
    task = WidthTrial(workspace, pruner.structure, sites, fitted, compared)
    each = pruner.costs.dense("macs") * per_chunk * (len(fitted) + len(compared))
    return task, max(LEAST_TRIALS * len(pruner.channels), min(1000, TRIAL_MULTIPLY_ADDS // each))


def _seconds(pruner: Pruner, widths: Widths, budget: Budget) -> float:
    """Median of five forward passes of a network of these widths (any channels)."""
    kept = {name: tuple(range(width)) for name, width in widths.items()}
    network = pruner.cut(KeptChannels(kept))
    x = pruner.example[:1].expand(budget.batch, *pruner.example.shape[1:]).contiguous()
    return latency(network, x, repeats=5).median_s


def _fast_enough(pruner: Pruner, budget: Budget) -> Widths:
    limit_s = float(budget.share) * _seconds(pruner, {}, budget)
    least = pruner.costs.macs(least_widths(pruner.costs.channels, budget.round_to))
    return dict(
        widths_within(
            limit_s,
            lambda cost: by_curves(pruner, cost, "macs", budget.round_to),
            lambda widths: _seconds(pruner, dict(widths), budget),
            least,
            pruner.costs.dense("macs"),
        )
    )


def _tolerant(pruner: Pruner, budget: Budget, on_trial: OnTrial) -> Widths:
    """Front to back, each layer's fewest channels that keep ``(1 - tolerance)`` of the top-1 that
    the network has with the layers before it cut; found by doubling and halving along the path.
    """
    widths: Widths = {}
    tried = 0

    def top1(chosen: Widths) -> float:
        nonlocal tried
        fold = pruner.settings.objective != "least_squares"
        network = pruner.cut(pruner.keep(chosen, fold=fold))
        tried += 1
        return classify(network, pruner.workspace.batches()).accuracy

    for name, found in pruner.paths.items():
        wanted = float(1 - Fraction(budget.share)) * top1(widths)
        most = len(found.curve)
        allowed = allowed_widths(pruner.costs.channels[name], budget.round_to, most)
        low, high = -1, len(allowed) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if top1({**widths, name: allowed[middle]}) >= wanted:
                high = middle
            else:
                low = middle
        widths[name] = allowed[high]
        on_trial(tried, tried, wanted)
    return widths
