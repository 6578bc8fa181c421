"""One cell of the ``select`` benchmark, in a process of its own so that its memory is its own.

python -m gfs_dist.bench.two_layer_cell '{"samples": 1000, ...}'   ->  one JSON line
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfs_dist._allocator import keep_freed_memory
from gfs_dist.runtime.resources import forget_peak, peak_bytes
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop

FEATURES = 64
CHUNK = 1024


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Attributes:
        samples, neurons: size of the problem.
        picks: picks the row is about.
        timed_picks: picks that are really made; fewer only for the exhaustive search.
        objective, method: as in a recipe; method ``omp_gram`` is scikit-learn's.
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


def measure(cell: Cell) -> dict[str, Any]:
    """Run the cell; seconds of set-up and steps, memory above the data, picks."""
    torch.set_num_threads(cell.threads)
    contributions, targets = make_data(cell)
    search = _omp if cell.method == "omp_gram" else _ours
    gc.collect()
    held = forget_peak()
    runs = []
    for repeat in range(cell.repeats + (cell.repeats > 1)):
        runs.append(search(cell, contributions, targets[cell.objective]))
        if repeat == 0:
            peak = peak_bytes() - held
    timed = runs[1:] if cell.repeats > 1 else runs
    scale = cell.picks / cell.timed_picks
    return {
        **asdict(cell),
        "setup_s": _spread([run["setup_s"] for run in timed]),
        "steps_s": _spread([run["steps_s"] * scale for run in timed]),
        "total_s": _spread([run["setup_s"] + run["steps_s"] * scale for run in timed]),
        "held_step_us": timed[-1].get("held_step_us"),
        "peak_memory_bytes": peak,
        "picks": timed[-1]["picks"],
        "distinct": timed[-1]["distinct"],
        "evaluated_share": timed[-1].get("evaluated_share"),
    }


def _ours(cell: Cell, contributions: Tensor, target: Tensor) -> dict[str, Any]:
    began = time.perf_counter()
    recipe = Recipe(cell.objective, cell.method)
    source, own = ArrayContributions(contributions), torch.arange(cell.neurons)
    objective = make_objective(recipe, source, target, own)
    ready = time.perf_counter()
    marks = [ready]
    path = greedy(
        objective, Stop(cell.timed_picks), on_step=lambda _: marks.append(time.perf_counter())
    )
    return {
        "setup_s": ready - began,
        "steps_s": marks[-1] - ready,
        "held_step_us": _held_step_us(path, marks) if cell.method == "lazy" else None,
        "picks": path.picks,
        "distinct": path.num_kept,
        "evaluated_share": getattr(objective, "evaluated_share", None),
    }


def _held_step_us(path: GreedyPath, marks: list[float]) -> float | None:
    """Median step whose pick's column was there already."""
    again = [marks[k + 1] - marks[k] for k, pick in enumerate(path.picks) if pick in path.picks[:k]]
    return statistics.median(again) * 1e6 if again else None


def _omp(cell: Cell, contributions: Tensor, target: Tensor) -> dict[str, Any]:
    """scikit-learn's orthogonal matching pursuit: another rule (refitted weights, no repeats), the
    same inputs (moments) and the same number of picks; beside our panel without replacement.
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
    return {
        "setup_s": ready - began,
        "steps_s": ended - ready,
        "picks": None,
        "distinct": int(np.count_nonzero(weights)),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "minimum": min(values), "maximum": max(values)}


def main(words: list[str]) -> None:
    """Read a cell as JSON, print its row as JSON."""
    keep_freed_memory()
    print(json.dumps(measure(Cell(**json.loads(words[0])))))  # noqa: T201 - the answer


if __name__ == "__main__":
    main(sys.argv[1:])
