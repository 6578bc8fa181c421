"""Widths for a budget: proposed from the paths, compared on really cut networks, improved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import Any

from gfs_dist.errors import BudgetError
from gfs_dist.networks.measure.loss_and_accuracy import classify
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.repair.fit_rule import FitRule
from gfs_dist.pruning.widths.allocate import allocate, proportional
from gfs_dist.pruning.widths.budget import UNITS, Budget, allowed_widths, percent, uniform_widths
from gfs_dist.pruning.widths.costs import Costs
from gfs_dist.pruning.widths.feasible import MEASURES
from gfs_dist.pruning.widths.fit_choice import choose_fit_rule
from gfs_dist.pruning.widths.ties import Ties
from gfs_dist.pruning.widths.width_search import Widths, WidthSearch
from gfs_dist.pruning.widths.width_trial import WidthTrial

TRIAL_SAMPLES = 256
COMPARED = 3
TRIAL_MULTIPLY_ADDS = 2**43
ROUNDS = 3
QUICK = 2
"""How much measuring goes into widths: 256 samples to fit and three times as many others to
compare; a trial of each layer and one of what follows from them in each of three rounds, or in as
many (one at least) as cost 9e12 multiply-adds of forward passes; with ``quick``, the starting
widths alone.

The samples that are compared are not those that are fitted (the paths saw all: they are the same
for all widths)."""

FEW = 16
"""Widths of one group that are all measured, where layers of a kind have one width."""

HALVINGS, STEPS = 6, 50
"""How finely a cost is sought whose network is fast enough, and steps back where it is not."""

OnTrial = Callable[[int, int, float], None]


@dataclass(frozen=True)
class ChosenWidths:
    """Widths, and why these.

    Attributes:
        widths: by layer.
        rule: ``measured``, ``keep``, ``widths`` or ``tolerance``; ``latency``, ``memory`` or both
            where these decided.
        reason: a sentence for the report.
        used: by kind of limit, how much of it these widths take (1: all).
        binds: the kind of limit of which most is taken; empty without limits.
        compared: rows ``rule``, ``loss``: rules measured against each other, by
            :class:`.WidthTrial`.
        weights: by layer, see :meth:`.WidthSearch.weights`, of this or another budget's trials;
            empty where there were none.
    """

    widths: Widths
    rule: str
    reason: str
    compared: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    binds: str = ""


def choose_widths(
    pruner: Pruner, budget: Budget, on_trial: OnTrial = lambda *_: None, *, quick: bool = False
) -> ChosenWidths:
    """Widths that meet a budget, by the rule of its kind in :data:`RULES`.

    Args:
        pruner: with the paths of all layers.
        budget: feasible.
        on_trial: called with trials made, the most there will be, and the least loss.
        quick: the starting widths alone, where the budget does not say how many trials; with
            the pruner's weights, one more.
    """
    if pruner.measures_rule:
        half = uniform_widths(pruner.costs.channels, Fraction(1, 2), budget.round_to)
        pruner.rule, pruner.compared_rules = choose_fit_rule(pruner, half)
    chosen = RULES[budget.kind](pruner, budget, on_trial, quick)
    ties = Ties.of(pruner.structure.layers, uniform=budget.uniform)
    curves = ties.curves({name: found.curve for name, found in pruner.paths.items()})
    widths = {}
    for name, curve in ties.expand(curves).items():
        # A path that ends before its width: the largest allowed one that it reaches.
        most, width = len(curve), chosen.widths[name]
        allowed = allowed_widths(pruner.costs.channels[name], budget.round_to, most)
        widths[name] = width if width <= most else allowed[-1]
    told = f"; the same width in all layers of a kind ({len(curves)} for {len(widths)} layers)"
    reason = f"{chosen.reason}{told}" if budget.uniform else chosen.reason
    return replace(chosen, widths=widths, reason=reason)


def by_curves(
    pruner: Pruner,
    limits: Mapping[str, int],
    round_to: int = 1,
    weights: Mapping[str, float] = MappingProxyType({}),
    *,
    uniform: bool = False,
) -> Widths:
    """Widths that make the sum of all layers' errors, each times its weight or 1, least."""
    ties = Ties.of(pruner.structure.layers, uniform=uniform)
    curves = {
        name: [weights.get(name, 1.0) * error for error in found.curve]
        for name, found in pruner.paths.items()
    }
    return ties.expand(allocate(ties.curves(curves), ties.costs(pruner.costs), limits, round_to))


def _within_limits(pruner: Pruner, budget: Budget, on_trial: OnTrial, quick: bool) -> ChosenWidths:
    """Widths by what multiply-adds and parameters allow; narrower ones, where those take more of
    what is measured than is allowed.
    """
    costs, limits = pruner.costs, pruner.costs.limits(budget)
    measures = {kind: MEASURES[kind] for kind in budget.shares if kind in MEASURES}
    allowed = {
        kind: float(budget.shares[kind]) * measure(pruner, {}, budget.batch)
        for kind, measure in measures.items()
    }

    def use(widths: Widths) -> dict[str, float]:
        found = {kind: costs.of(kind, widths) / limit for kind, limit in limits.items()}
        for kind, measure in measures.items():
            found[kind] = measure(pruner, widths, budget.batch) / allowed[kind]
        return found

    used, binding = {}, set(limits)
    if limits:
        chosen = _measured(pruner, budget, on_trial, quick)
        used = use(chosen.widths)
    if not used or max(used.values()) > 1:
        widths, used = _narrowed(pruner, budget, use)
        rule, binding = " and ".join(measures), set(measures)
        chosen = ChosenWidths(widths, rule, f"errors added up, {rule} measured")
    binds = max((kind for kind in used if kind in binding), key=used.__getitem__)
    if len(used) > 1:
        told = ", ".join(f"{kind} {share:.1%}" for kind, share in used.items())
        chosen = replace(chosen, reason=f"{chosen.reason}; {binds} binds (of the limits {told})")
    return replace(chosen, used=used, binds=binds)


def _narrowed(
    pruner: Pruner, budget: Budget, use: Callable[[Widths], Mapping[str, float]]
) -> tuple[Widths, dict[str, float]]:
    """Widths by the curves at less and less multiply-adds until all limits hold.

    Memory may hold sooner at less and less parameters: of both, what promises less error is taken.
    """
    costs, limits = pruner.costs, pruner.costs.limits(budget)
    weights = pruner.weights if limits else {}

    def propose(kind: str, cost: int) -> Widths:
        reduced = {**limits, kind: min(cost, limits.get(kind, cost))}
        return by_curves(pruner, reduced, budget.round_to, weights, uniform=budget.uniform)

    def error(widths: Widths) -> float:
        paths = pruner.paths.items()
        return sum(weights.get(name, 1.0) * min(p.curve[: widths[name]]) for name, p in paths)

    found = [
        widths_within(
            partial(propose, kind),
            use,
            least=costs.of(kind, costs.least(budget.round_to)),
            dense=limits.get(kind, costs.dense(kind)),
        )
        for kind in (UNITS if "memory" in budget.shares else ("macs",))
    ]
    return min(found, key=lambda pair: error(pair[0]))


def _measured(pruner: Pruner, budget: Budget, on_trial: OnTrial, quick: bool) -> ChosenWidths:
    """Widths by the curves (errors in units of the stream, added up) and the same share everywhere
    are cut, refitted and measured; then the errors of layers are weighted by what they do to the
    whole network. (The plain sum does not see what later layers make of an error.)
    """
    limits, round_to = pruner.costs.limits(budget), budget.round_to
    task, samples = make_trial(pruner), len(pruner.workspace.x(0))
    each = pruner.costs.dense("macs") * samples * (len(task.fitted) + len(task.compared))
    ties = Ties.of(pruner.structure.layers, uniform=budget.uniform)
    costs = ties.costs(pruner.costs)
    curves = ties.curves({name: found.curve for name, found in pruner.paths.items()})
    known = pruner.weights
    trials = budget.trials or (QUICK + bool(known) if quick else most_trials(len(curves), each))
    done, best = 0, float("inf")

    def measure(wanted: Sequence[Widths], anchor: Widths | None) -> list[float]:
        nonlocal done, best
        kept = [pruner.keep(ties.expand(widths), fold=False) for widths in wanted]
        shared = anchor and pruner.keep(ties.expand(anchor), fold=False)
        losses = list(pruner.runtime.map(task, [(own, shared or own) for own in kept]).values)
        done, best = done + len(losses), min(best, *losses)
        on_trial(done, trials, best)
        return losses

    most = {name: len(curve) for name, curve in curves.items()}
    search = WidthSearch(costs, limits, curves, measure, trials, round_to)
    starts = {
        "curves": allocate(curves, costs, limits, round_to),
        "same share": proportional(costs, limits, round_to, most),
    }
    if known:
        weighted = by_curves(pruner, limits, round_to, known, uniform=budget.uniform)
        starts["weighted curves"] = {name: weighted[name] for name in curves}
    if budget.uniform and not quick:
        fixed = _one_kind_fixed(curves, costs, limits, round_to)
        trials += 0 if budget.trials else len(fixed)
        starts |= dict(list(fixed.items())[: max(trials - len(starts), 0)])
    compared: list[dict[str, Any]] = [
        {"rule": rule, "loss": loss}
        for rule, loss in zip(starts, search.losses(list(starts.values())), strict=True)
    ]
    widths, loss = search.run(list(starts.values()))
    reason = (
        f"widths of least squared difference from the dense network's outputs: {loss:.4f} of "
        f"their squares on {samples * len(task.compared)} samples after one refit "
        f"(errors of single layers added up: {compared[0]['loss']:.4f}, "
        f"the same share of every layer: {compared[1]['loss']:.4f})"
    )
    if search.used > len(starts):
        compared.append({"rule": f"weighted curves, {search.used} trials", "loss": loss})
        pruner.weights = ties.expand(search.weights())
    return ChosenWidths(ties.expand(widths), "measured", reason, compared, pruner.weights)


def _one_kind_fixed(
    curves: Mapping[str, Sequence[float]], costs: Costs, limits: Mapping[str, int], round_to: int
) -> dict[str, Widths]:
    """Widths for each number of candidates of the group with the fewest to choose from.

    Errors of a few heads and of many neurons, each cut alone, say little about which to cut where
    one width serves a whole network: so each of the few is measured, the rest shared out.
    """
    few, *others = sorted(curves, key=lambda name: len(curves[name]))
    widths = allowed_widths(costs.channels[few], round_to, len(curves[few]))
    found: dict[str, Widths] = {}
    for width in widths[::-1] if others and len(widths) <= FEW else ():
        fixed = costs.fixed(few, width)
        least = fixed.least(round_to)
        if all(fixed.of(kind, least) <= limit for kind, limit in limits.items()):
            rest = {name: curves[name] for name in others}
            chosen = {**allocate(rest, fixed, limits, round_to), few: width}
            found[f"{few}: {width}"] = {name: chosen[name] for name in curves}
    return found


def make_trial(pruner: Pruner) -> WidthTrial:
    """How widths are measured."""
    workspace = pruner.workspace
    chunks = min(workspace.num_chunks, max(1, TRIAL_SAMPLES // len(workspace.x(0))))
    fitted = tuple(range(chunks))
    others = tuple(range(chunks, min((1 + COMPARED) * chunks, workspace.num_chunks)))
    compared = others if len(others) * 2 >= chunks else fitted
    if workspace.follows and workspace.num_chunks >= 3:  # batches may be sorted, and few
        every = range(min((1 + COMPARED) * chunks, workspace.num_chunks))
        compared = tuple(every[2::3])
        fitted = tuple(chunk for chunk in every if chunk not in compared)
    sites = pruner.consumer_sites(pruner.structure.layers)
    rule = FitRule(damping=pruner.fit_rule.damping)
    return WidthTrial(workspace, pruner.structure, sites, fitted, compared, rule)


def most_trials(layers: int, each: int) -> int:
    """Trials of widths, where the budget does not say how many.

    Args:
        layers: that can be pruned.
        each: multiply-adds of a trial's forward passes.
    """
    a_round = layers + 1
    return QUICK + max(a_round, min(ROUNDS * a_round, TRIAL_MULTIPLY_ADDS // each))


def _uniform(pruner: Pruner, budget: Budget, *_: object) -> ChosenWidths:
    widths = uniform_widths(pruner.costs.channels, budget.shares["keep"], budget.round_to)
    return ChosenWidths(widths, "keep", "the same share of every layer, as asked")


def _given(pruner: Pruner, budget: Budget, *_: object) -> ChosenWidths:
    return ChosenWidths({**pruner.costs.channels, **budget.widths}, "widths", "as asked")


def widths_within(
    propose: Callable[[int], Widths],
    use: Callable[[Widths], Mapping[str, float]],
    least: int,
    dense: int,
) -> tuple[Widths, dict[str, float]]:
    """The widths of largest cost within limits that are measured.

    Time falls with cost, but in steps and with noise: the cost is halved down to 1/64 of its
    range, and the widths found are measured once more. While that is then too much, the next
    smaller widths are taken, 2 % of the dense cost at a time.

    Args:
        propose: the best widths of at most a cost.
        use: by kind of limit, the share of it that a network of these widths takes.
        least: cost of the smallest widths.
        dense: cost of the whole network.

    Returns:
        These widths, and what they use.

    Raises:
        BudgetError: not even the smallest network is within a limit, this time.
    """
    low, high = least, dense
    for _ in range(HALVINGS):
        middle = (low + high) // 2
        if max(use(propose(middle)).values()) <= 1:
            low = middle
        else:
            high = middle
    for cost in (*range(low, least, -max(1, dense // STEPS)), least):
        used = dict(use(widths := propose(cost)))
        if max(used.values()) <= 1:
            return widths, used
    kind = max(used, key=used.__getitem__)
    raise BudgetError(
        f"budget.{kind}: the smallest network took {percent(Fraction(f'{used[kind]:.4f}'))} of "
        "what is allowed"
    )


def _tolerant(pruner: Pruner, budget: Budget, on_trial: OnTrial, *_: object) -> ChosenWidths:
    """Front to back, each layer's fewest channels that keep ``(1 - tolerance)`` of the top-1 that
    the network has with the layers before it cut; found by halving along the path.
    """
    widths: Widths = {}
    tried = 0

    def top1(chosen: Widths) -> float:
        nonlocal tried
        tried += 1
        network = pruner.cut(pruner.keep(chosen, fold=pruner.picks_are_weighted))
        return classify(network, pruner.workspace.batches()).accuracy

    for name, found in pruner.paths.items():
        wanted = float(1 - budget.shares["tolerance"]) * top1(widths)
        channels, most = pruner.costs.channels[name], len(found.curve)
        allowed = allowed_widths(channels, budget.round_to, most)
        low, high = -1, len(allowed) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if top1({**widths, name: allowed[middle]}) >= wanted:
                high = middle
            else:
                low = middle
        widths[name] = allowed[high]
        on_trial(tried, tried, wanted)
    reason = "layer by layer the fewest channels within the tolerance of top-1 (the paper's)"
    return ChosenWidths(widths, "tolerance", reason)


RULES: dict[str, Callable[[Pruner, Budget, OnTrial, bool], ChosenWidths]] = {
    "limits": _within_limits,
    "keep": _uniform,
    "tolerance": _tolerant,
    "widths": _given,
}
"""How the widths for each kind of budget are found."""
