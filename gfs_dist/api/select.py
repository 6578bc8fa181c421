"""``gfs_dist.select``: candidates given as arrays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfs_dist.errors import InputError
from gfs_dist.files.scratch_folder import ScratchFolder, sigterm_unwinds
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.runtime.resources import memory_per_rank_bytes
from gfs_dist.selection.objective import ROUNDING, Objective
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import (
    Recipe,
    dense_loss,
    make_objective,
    moments_objective,
    settle,
)
from gfs_dist.selection.objectives.refit import fit_of, fit_of_moments
from gfs_dist.selection.objectives.squared import squared_magnitude
from gfs_dist.selection.partition import Partition, RankShare, make_partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop


def select(
    contributions: Any = None,
    target: Any = None,
    *,
    steps: int | None = None,
    distinct: int | None = None,
    tolerance: float | None = None,
    loss: str = "squared",
    weights: str = "uniform",
    replacement: bool | None = None,
    method: str = "auto",
    gram: Any = None,
    correlation: Any = None,
    energy: float | None = None,
    workers: int = 1,
    runtime: str = "none",
    device: str = "auto",
    partition: str | Sequence[Sequence[int]] = "contiguous",
    graph: str | Sequence[tuple[int, int]] | None = None,
) -> GreedyPath:
    """Pick neurons one by one so that the mean of their contributions approaches the target.

        i_k = argmin_i L[((k - 1) u_{k-1} + phi_i) / k]     (ties: smallest i)
        u_k = ((k - 1) u_{k-1} + phi_{i_k}) / k

    Args:
        contributions: ``phi_i`` in columns: (samples, neurons) or (samples, neurons, outputs),
            tensor or array; float32 is held as float32, sums and decisions are float64.
        target: (samples,) or (samples, outputs); 0 or 1 for ``bce``; class numbers (samples,) for
            ``cross_entropy``.
        steps: picks to make at most; None: 200, or as many as ``distinct`` takes.
        distinct: end before the pick that would make more distinct neurons than this. Without
            ``steps`` it is reached: after 20 picks a neuron, at least 200, all others are new.
        tolerance: end once the loss is at most that of the mean of all neurons plus this.
        loss: ``squared`` (``sum (u - y)^2 / (2 samples)``), ``bce`` or ``cross_entropy``, of
            logits; ``least_squares``: squared, of weights that are fitted again after each pick
            (orthogonal least squares): each pick is the one that lowers this loss most, and
            ``path.coefficients(k)`` is the fit on the first ``k``: a weight of any sign a neuron.
        weights: ``uniform`` (the paper's 1/k), or ``line_search``, the best weight in [0, 1].
        replacement: whether a neuron may be picked again; None: yes, under least_squares no.
        method: squared: ``lazy`` (or ``panel``), ``streaming``; least_squares: ``elimination``;
            others: ``screened``; any: ``auto``, ``exhaustive``. All give the same picks.
        gram, correlation, energy: ``A'A / samples``, ``A'y / samples``, ``y'y / samples``
            instead of contributions and target (squared, least_squares).
        workers: ranks that share the candidates; kills are survived.
        runtime: ``none`` (this process, one worker), ``local`` (processes), ``ray`` (actors).
        device: where to compute: ``auto`` (GPUs if every worker can have one), ``cpu``, ``cuda``.
        partition: ``contiguous``, ``strided``, or the candidates of each worker.
        graph: edges along which workers talk (Algorithm 2 on a graph): None for collectives,
            ``line``, ``ring``, ``star``, ``tree``, or pairs of ranks.

    Returns:
        The path: picks in order and the loss after each; the same for any number of workers.

    Warns:
        RuntimeWarning: it ended before ``distinct`` or ``tolerance`` was reached; says why.
        UserWarning: the moments are too large, or too coarse (float32), to tell losses apart.

    Raises:
        ValueError, TypeError: names the argument, what was found and what is accepted.

    Source: arXiv 2108.00259, Algorithms 1 and 2; equations 9-11.
    """
    if not isinstance(replacement, bool | None):
        raise TypeError(f"replacement: found {replacement!r}, accepted True or False")
    if replacement is None:
        replacement = loss != "least_squares"
    recipe = Recipe(loss, method, weights, replacement)
    rules = Stop.given(steps, distinct)
    spec = runtime_spec(runtime, workers, device, graph)
    given = {"gram": gram, "correlation": correlation, "energy": energy}
    if gram is not None or correlation is not None or energy is not None:
        problem: MomentsProblem | ArrayProblem = _moments(recipe, contributions, target, given)
        rules.check(problem.num_candidates)
    else:
        problem = _arrays(recipe, contributions, target, spec, rules)
    if tolerance is not None and not tolerance >= 0:
        raise InputError(f"tolerance: found {tolerance}, accepted 0 or more")
    limit = None if tolerance is None else problem.dense_loss() + tolerance
    stop = replace(rules, loss=limit)
    divided = (
        make_partition(partition, problem.num_candidates, workers)
        if isinstance(partition, str)
        else Partition(partition).over(workers)
    )
    divided.require(problem.num_candidates)
    with _in_files(problem, runtime) as packed, open_runtime(spec) as ranks:
        path = ranks.search(packed, stop, divided).path
    if loss == "least_squares":
        path.fit = problem.fit(path.picks)
    elif isinstance(problem, MomentsProblem):
        _warn_of_lost_digits(path, problem)
    if missed := stop.missed(path):
        warnings.warn(missed, RuntimeWarning, stacklevel=2)
    return path


def runtime_spec(
    kind: str, workers: int, device: str, graph: str | Sequence[tuple[int, int]] | None = None
) -> RuntimeSpec:
    """The ranks that a Python call asks for.

    Raises:
        ConfigError, InputError: an unknown kind or device, or more than one rank in this process.
    """
    spec = RuntimeSpec(kind=kind, workers=workers, device=device, graph=graph)
    for name, given, only in (("workers", workers, 1), ("graph", graph, None)):
        if kind == "none" and given != only:
            raise InputError(f"{name}: found {given!r}, accepted {only!r} with runtime='none'")
    return spec


@dataclass(frozen=True, eq=False)
class ArrayProblem:
    """Contributions and target as arrays, or as files of arrays.

    Attributes:
        contributions: tensor (samples, neurons[, outputs]), or a ``.npy`` file.
        target: tensor, or a ``.npy`` file.
        num_candidates: neurons.
        recipe: settled.
    """

    contributions: Tensor | str
    target: Tensor | str
    num_candidates: int
    recipe: Recipe

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        source = ArrayContributions(_opened(self.contributions).to(device))
        return make_objective(self.recipe, source, _opened(self.target).to(device), share.own, tick)

    def dense_loss(self) -> float:
        """Loss of the mean of all contributions."""
        source = ArrayContributions(_opened(self.contributions))
        return dense_loss(self.recipe, source, _opened(self.target))

    def fit(self, picks: Sequence[int]) -> Tensor:
        """The weights of all prefixes; see ``GreedyPath.fit``."""
        source = ArrayContributions(_opened(self.contributions))
        return fit_of(source, _opened(self.target), picks)


@dataclass(frozen=True, eq=False)
class MomentsProblem:
    """Squared or refitted loss by its moments alone: gram (n, n), correlation (n,), energy."""

    gram: Tensor
    correlation: Tensor
    energy: float
    recipe: Recipe
    rounding: float = ROUNDING
    """Of a moment, relative to its terms."""

    @property
    def num_candidates(self) -> int:
        return len(self.gram)

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        del tick  # nothing is set up
        gram, correlation = self.gram.to(device), self.correlation.to(device)
        return moments_objective(
            self.recipe, gram, correlation, self.energy, share.own, rounding=self.rounding
        )

    def dense_loss(self) -> float:
        """Loss of the mean of all contributions."""
        n = self.num_candidates
        inner = float(self.gram.sum()) / n**2 - 2 * float(self.correlation.sum()) / n
        return (inner + self.energy) / 2

    def fit(self, picks: Sequence[int]) -> Tensor:
        """The weights of all prefixes; see ``GreedyPath.fit``."""
        return fit_of_moments(self.gram, self.correlation, picks)


def _arrays(
    recipe: Recipe, contributions: Any, target: Any, spec: RuntimeSpec, rules: Stop
) -> ArrayProblem:
    for name, value in (("contributions", contributions), ("target", target)):
        if value is None:
            raise TypeError(f"{name}: missing; give contributions and target, or gram, ...")
    source = ArrayContributions(as_tensor("contributions", contributions))
    rules.check(source.num_candidates)
    memory = memory_per_rank_bytes(spec.workers, spec.device)
    settled, _ = settle(recipe, source, spec.workers, rules, memory)
    return ArrayProblem(source.tensor, as_tensor("target", target), source.num_candidates, settled)


def _moments(
    recipe: Recipe, contributions: Any, target: Any, given: dict[str, Any]
) -> MomentsProblem:
    if contributions is not None or target is not None:
        raise InputError(
            "gram: found together with contributions or target, accepted one or the other"
        )
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise InputError(f"{missing[0]}: missing; gram, correlation and energy go together")
    methods = {"squared": "panel", "least_squares": "elimination"}
    if recipe.method not in ("auto", methods.get(recipe.loss)) or recipe.loss not in methods:
        raise InputError(
            f"gram: moments give loss='squared' by method='panel' and loss='least_squares' by "
            f"method='elimination' only, found loss={recipe.loss!r}, method={recipe.method!r}"
        )
    gram, correlation = (as_tensor(name, given[name]) for name in ("gram", "correlation"))
    rounding = max(ROUNDING, *(2 * torch.finfo(part.dtype).eps for part in (gram, correlation)))
    return MomentsProblem(
        gram.double(), correlation.double(), float(given["energy"]), recipe, rounding
    )


def _warn_of_lost_digits(path: GreedyPath, problem: MomentsProblem) -> None:
    """Say when rounding takes more than half of the digits that the first loss can have."""
    energy, rounding = problem.energy, problem.rounding
    resolution = rounding * squared_magnitude(0.0, 0.0, math.sqrt(energy))
    if resolution > math.sqrt(rounding) * path.loss[0]:
        warnings.warn(
            f"energy: found {energy:.3g} where the loss of the first pick is {path.loss[0]:.3g}; "
            f"such moments tell losses apart down to {resolution:.1g} only. To keep the digits, "
            "subtract the target from every contribution, form the gram of these, and give "
            "correlation and energy as zeros",
            stacklevel=3,
        )


@contextmanager
def _in_files(
    problem: ArrayProblem | MomentsProblem, runtime: str
) -> Iterator[ArrayProblem | MomentsProblem]:
    """The problem as workers get it: on this machine, large arrays in memory-mapped files."""
    if runtime != "local" or isinstance(problem, MomentsProblem):
        yield problem
        return
    assert isinstance(problem.contributions, Tensor)
    assert isinstance(problem.target, Tensor)
    with sigterm_unwinds(), ScratchFolder("select") as folder:
        files = [str(folder / name) for name in ("contributions.npy", "target.npy")]
        for file, tensor in zip(files, (problem.contributions, problem.target), strict=True):
            np.save(file, tensor.cpu().numpy(), allow_pickle=False)
        yield ArrayProblem(files[0], files[1], problem.num_candidates, problem.recipe)


def _opened(values: Tensor | str) -> Tensor:
    """A tensor, mapped from a file copy-on-write if it is one."""
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(np.load(values, mmap_mode="c", allow_pickle=False))


def as_tensor(name: str, values: Any) -> Tensor:
    """A tensor from a tensor or numpy array without copying; float32 and float64 stay as they are.

    Raises:
        TypeError: ``values`` is neither; ``name`` is the argument the message names.
    """
    if not isinstance(values, Tensor):
        if not hasattr(values, "__array__"):
            raise TypeError(
                f"{name}: found {type(values).__name__}, accepted a torch tensor or numpy array"
            )
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name}: found {array.dtype}, accepted real numbers")
        if (
            not (array.flags.writeable and array.dtype.isnative)
            or min(array.strides, default=0) < 0
        ):
            array = array.astype(array.dtype.newbyteorder("="))
        values = torch.as_tensor(array)
    values = values.detach()
    if values.is_complex() or values.layout != torch.strided:
        found = values.dtype if values.is_complex() else values.layout
        raise TypeError(f"{name}: found {found}, accepted dense real numbers")
    if values.dtype not in (torch.float32, torch.float64):
        values = values.to(torch.float64)
    return values
