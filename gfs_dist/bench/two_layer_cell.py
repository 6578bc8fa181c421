"""Two-layer searches of any size, on made-up contributions: one is a cell of the benchmarks.

A cell of ``suite=select`` is measured in a process of its own, so that its memory is its own:

python -m gfs_dist.bench.two_layer_cell '{"samples": 1000, ...}'   ->  one JSON line
"""

from __future__ import annotations

import functools
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple, NotRequired, TypedDict, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gfs_dist._allocator import keep_freed_memory
from gfs_dist.bench.model.timing_model import Spread, spread
from gfs_dist.runtime.resources import forget_peak, peak_bytes
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.stop import Stop

FEATURES = 64
CHUNK = 1024


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Attributes:
        samples, neurons: size of the problem.
        picks: picks the row is about.
        timed_picks: picks that are really made; fewer only for slow searches.
        objective, method: as in a recipe; also ``omp_gram``, scikit-learn's, and ``naive``.
        repeats: searches that are timed, after one that is not (unless ``repeats`` is 1).
        threads, seed: as their names say.
    """

    samples: int
    neurons: int
    picks: int
    timed_picks: int
    objective: str
    method: str
    repeats: int
    threads: int
    seed: int

    @classmethod
    def of_ranks(
        cls, samples: int, neurons: int, picks: int, seed: int, method: str = "lazy"
    ) -> Cell:
        """The squared loss, by ranks of one thread."""
        return cls(samples, neurons, picks, picks, "squared", method, 1, 1, seed)


@dataclass(frozen=True)
class CellProblem:
    """The problem of a cell for ranks, each of which makes the data itself."""

    cell: Cell

    @property
    def num_candidates(self) -> int:
        return self.cell.neurons

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        contributions, targets = _made(self.cell)
        source = ArrayContributions(contributions.to(device))
        recipe = Recipe(self.cell.objective, self.cell.method)
        target = targets[self.cell.objective].to(device)
        return make_objective(recipe, source, target, share.own, tick)


def make_data(cell: Cell) -> tuple[Tensor, dict[str, Tensor]]:
    """Contributions ``b_i tanh(a_i . x)`` (samples, neurons) float64, and a target for each loss.

    The target is the mean of all neurons plus a smooth part that they cannot give.
    """
    generator = torch.Generator().manual_seed(cell.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, a, b = draw(cell.samples, FEATURES), draw(FEATURES, cell.neurons), draw(cell.neurons)
    a /= FEATURES**0.5
    contributions = torch.empty(cell.samples, cell.neurons, dtype=torch.float64)
    for rows in torch.arange(cell.samples).split(CHUNK):
        contributions[rows] = (x[rows] @ a).tanh_().mul_(b)
    smooth = contributions.mean(1) + 0.05 * torch.sin(x[:, 0])
    return contributions, {"squared": smooth, "bce": (smooth > 0).double()}


_made = functools.lru_cache(maxsize=1)(make_data)


class CellRow(TypedDict):
    """One cell: how long it took, and how it compares with the naive search.

    Attributes:
        held_step_us: median step whose pick's column was there already.
        peak_memory_bytes: above the data.
        picks: None of scikit-learn's; replaced by their hash.
        evaluated_share: of losses, of a screened search.
        speedup, over_best: naive seconds over these; these over the least of all methods.
        first_picks: that the naive search made, too, with their hash.
    """

    suite: str
    samples: int
    neurons: int
    timed_picks: int
    objective: str
    method: str
    repeats: int
    threads: int
    seed: int
    setup_s: Spread
    steps_s: Spread
    total_s: Spread
    held_step_us: float | None
    peak_memory_bytes: int
    picks: NotRequired[list[int] | None]
    distinct: int
    evaluated_share: float | None
    speedup: NotRequired[float]
    over_best: NotRequired[float]
    picks_sha256: NotRequired[str | None]
    first_picks_sha256: NotRequired[str | None]
    first_picks: NotRequired[int]


class _Run(NamedTuple):
    """One search; see :class:`CellRow`."""

    setup_s: float
    steps_s: float
    picks: list[int] | None
    distinct: int
    held_step_us: float | None = None
    evaluated_share: float | None = None


def measure(cell: Cell) -> CellRow:
    """Run a cell: seconds of set-up and steps, memory, picks."""
    torch.set_num_threads(cell.threads)
    contributions, targets = make_data(cell)
    search = {"omp_gram": _omp, "naive": _naive}.get(cell.method, _ours)
    gc.collect()
    held = forget_peak()
    runs = []
    for repeat in range(cell.repeats + (cell.repeats > 1)):
        runs.append(search(cell, contributions, targets[cell.objective]))
        if repeat == 0:
            peak = peak_bytes() - held
    timed = runs[1:] if cell.repeats > 1 else runs
    scale, last = cell.picks / cell.timed_picks, timed[-1]
    row = {
        "suite": "select",
        **asdict(cell),
        "setup_s": spread([run.setup_s for run in timed]),
        "steps_s": spread([run.steps_s * scale for run in timed]),
        "total_s": spread([run.setup_s + run.steps_s * scale for run in timed]),
        "held_step_us": last.held_step_us,
        "peak_memory_bytes": peak,
        "picks": last.picks,
        "distinct": last.distinct,
        "evaluated_share": last.evaluated_share,
    }
    return cast(CellRow, row)


def _ours(cell: Cell, contributions: Tensor, target: Tensor) -> _Run:
    began = time.perf_counter()
    recipe = Recipe(cell.objective, cell.method)
    source, own = ArrayContributions(contributions), torch.arange(cell.neurons)
    objective = make_objective(recipe, source, target, own)
    marks = [time.perf_counter()]
    path = greedy(
        objective, Stop(cell.timed_picks), on_step=lambda _: marks.append(time.perf_counter())
    )
    picks, ready = path.picks, marks[0]
    again = [marks[k + 1] - marks[k] for k, pick in enumerate(picks) if pick in picks[:k]]
    return _Run(
        ready - began,
        marks[-1] - ready,
        picks,
        path.num_kept,
        held_step_us=statistics.median(again) * 1e6 if again and cell.method == "lazy" else None,
        evaluated_share=getattr(objective, "evaluated_share", None),
    )


def _naive(cell: Cell, contributions: Tensor, target: Tensor) -> _Run:
    """Every candidate's loss from scratch at every pick, in one line: the obvious program."""
    began, y = time.perf_counter(), target[:, None]
    total, picks = torch.zeros_like(y), list[int]()
    for k in range(1, cell.timed_picks + 1):
        if cell.objective == "squared":
            losses = (((total + contributions) / k - y) ** 2).mean(0)
        else:
            u = (total + contributions) / k
            losses = functional.binary_cross_entropy_with_logits(
                u, y.expand_as(u), reduction="none"
            ).mean(0)
        picks.append(int(losses.argmin()))
        total += contributions[:, picks[-1:]]
    return _Run(0.0, time.perf_counter() - began, picks, len(set(picks)))


def _omp(cell: Cell, contributions: Tensor, target: Tensor) -> _Run:
    """scikit-learn's orthogonal matching pursuit: another rule (refitted weights, no repeats), the
    same inputs (moments) and the same number of picks; beside our search without replacement.
    """
    from sklearn.linear_model import orthogonal_mp_gram

    began = time.perf_counter()
    gram = (contributions.T @ contributions).div_(cell.samples)
    correlation = contributions.T @ target / cell.samples
    ready = time.perf_counter()
    weights = orthogonal_mp_gram(
        gram.numpy(), correlation.numpy(), n_nonzero_coefs=cell.timed_picks, copy_Gram=False
    )
    ended = time.perf_counter()
    return _Run(ready - began, ended - ready, None, int(np.count_nonzero(weights)))


def main(words: list[str]) -> None:
    """Read a cell as JSON, print its row as JSON."""
    keep_freed_memory()
    print(json.dumps(measure(Cell(**json.loads(words[0])))))  # noqa: T201 - the answer


if __name__ == "__main__":
    main(sys.argv[1:])
