"""Where the time of searches goes, at an earlier commit and now: profiles before and after a step.

python -m tools.records.profiles COMMIT         # keeps profiles: memory and layers
python -m tools.records.profiles COMMIT trials  # keeps profiles_trials

In a checkout of the repository. Both commits are checked out beside each other and take turns, each
time in a fresh process: ``python profiles.py PART`` is one of these, with a checkout as its
PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS = 5
IMAGES, SIZE, PICKS = 16, 224, 4
BLOCKS = (0, 3)
TRIAL_PICKS, TRIALS = 2, {0: 8, 3: 512}
RANKS = (1, 2, 4)
SAMPLES, NEURONS, STEPS = 5000, 1000, 60
NOTES = [
    f"memory: {STEPS} steps of an exhaustive search on {SAMPLES:,} samples by a rank that owns "
    f"half of {NEURONS:,} neurons, one thread, each of {ROUNDS} times in a process of its own as "
    "workers are; the page faults of the earlier commit depend on where a process finds its heap",
    f"layers: the first and last block of ResNet34, {IMAGES} images of {SIZE} x {SIZE}, {PICKS} "
    "picks, one thread; serial: the caller's own work, which no rank shares; seconds on the "
    "critical path of so many ranks, each timed alone, exchanges left out; medians of the rounds",
]
TRIALS_NOTE = (
    f"the first and last block of ResNet34 by network_loss, a mini-batch of {IMAGES} images of "
    f"{SIZE} x {SIZE}, {TRIAL_PICKS} picks, {TRIALS[0]} candidates a step of the first and all of "
    "the last, one thread; seconds on the critical path of so many ranks, each timed alone, "
    "exchanges left out; medians of the rounds"
)

Row = dict[str, Any]


def as_worker() -> None:
    """Set this process up as a worker of the checkout does."""
    import torch

    import gfs_dist

    torch.set_num_threads(1)
    # An editable installation would find the module elsewhere, for an earlier commit without it.
    if Path(gfs_dist.__file__).with_name("_allocator.py").exists():
        from gfs_dist._allocator import keep_freed_memory

        keep_freed_memory()


def memory() -> list[Row]:
    """One search, and what the system did for it."""
    import torch

    from gfs_dist.selection.loop import greedy
    from gfs_dist.selection.partition import Partition, RankShare
    from gfs_dist.selection.stop import Stop
    from tests.runtime.problems import matrix_problem

    problem = matrix_problem(0, SAMPLES, NEURONS, "exhaustive")
    own = torch.arange(NEURONS // 2)
    objective = problem.objective(RankShare(own), torch.device("cpu"), lambda: None)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    greedy(objective, Stop(STEPS), partition=Partition([own]))
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return [
        {
            "ms_a_step": 1e3 * seconds / STEPS,
            "user_ms": 1e3 * (after.ru_utime - before.ru_utime) / STEPS,
            "system_ms": 1e3 * (after.ru_stime - before.ru_stime) / STEPS,
            "faults_a_step": (after.ru_minflt - before.ru_minflt) // STEPS,
        }
    ]


def layers() -> list[Row]:
    """Phases of the search of layers by moments, by objective and number of ranks."""
    objectives, words = ("layer_output", "least_squares"), f"steps={PICKS}"
    return [row for place in BLOCKS for row in critical_paths(place, objectives, 2, words)]


def trials() -> list[Row]:
    """Phases of the search of layers by the network's loss, by number of ranks."""
    rows: list[Row] = []
    for place, candidates in TRIALS.items():
        words = f"steps={TRIAL_PICKS}", f"candidates={candidates}", f"batch={IMAGES}"
        rows += critical_paths(place, ("network_loss",), 1, *words)
    return rows


def critical_paths(place: int, objectives: tuple[str, ...], times: int, *words: str) -> list[Row]:
    """Of a block, the last of so many times: the first ones warm up."""
    from gfs_dist.bench.block_searches import BlockSearches
    from gfs_dist.bench.blocks import BlockProblem
    from gfs_dist.bench.model.timing_model import Exchange
    from gfs_dist.bench.one_rank_at_a_time import OneRankAtATime
    from gfs_dist.config.compose import compose
    from gfs_dist.pruning.calibration.workspace import Workspace

    sizes = [f"image_size={SIZE}", f"images={IMAGES}"]
    problem = BlockProblem.of(compose("benchmark", ["suite=appendix_d", *sizes, *words]))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        batches = [(problem.x, problem.labels)]
        workspace = Workspace.create(Path(folder, "workspace"), problem.network, batches)
        searches = BlockSearches(problem, workspace)
        block = problem.blocks[place]
        for objective in objectives:
            with OneRankAtATime(RANKS, "cpu", 1) as runtime:
                free = Exchange(0.0, 0.0, 0.0)
                for _ in range(times):
                    found = searches.one_rank_at_a_time(block, objective, runtime, free)
            rows += [
                {
                    "block": block.words,
                    "objective": objective,
                    "workers": ranks,
                    "seconds": timed.seconds,
                    **timed.phases,
                }
                for ranks, timed in found.items()
            ]
    return rows


def in_checkout(checkout: Path, part: str) -> list[Row]:
    """What a fresh process finds with the code of ``checkout``."""
    command = [sys.executable, str(Path(__file__).resolve()), part]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    rows: list[Row] = json.loads(done.stdout)
    return rows


def joined(rounds: list[list[Row]], code: str) -> list[Row]:
    """Medians of the numbers of each row over all rounds; of a single row's also the extremes."""
    from gfs_dist.bench.model.timing_model import spread

    rows = []
    for same in zip(*rounds, strict=True):
        row: Row = {"code": code}
        for key, value in same[0].items():
            values = [one[key] for one in same]
            if not isinstance(value, float):
                row[key] = value if len(set(values)) == 1 else f"{min(values):,} to {max(values):,}"
            elif len(rounds[0]) == 1:
                row[key] = spread(values)
            else:
                row[key] = statistics.median(values)
        rows.append(row)
    return rows


def add_efficiency(rows: list[Row]) -> None:
    """``time(1) / (n time(n))`` of rows of one code, block and objective."""
    one: dict[tuple[str, str, str], float] = {}
    for row in rows:
        key = row["code"], row["block"], row["objective"]
        one.setdefault(key, row["seconds"])
        row["efficiency"] = one[key] / row["seconds"] / row["workers"]


def by_turns(commit: str, parts: dict[str, int]) -> dict[str, list[Row]]:
    """Rows of both commits for each part, which is measured so many times."""
    with tempfile.TemporaryDirectory() as folder:
        checkouts = {"before": commit, "now": "HEAD"}
        for name, which in checkouts.items():
            command = ["git", "worktree", "add", "--detach", f"{folder}/{name}", which]
            subprocess.run(command, check=True)
        found: dict[str, dict[str, list[list[Row]]]] = {part: {} for part in parts}
        try:
            for part, rounds in parts.items():
                for _ in range(rounds):
                    for name in checkouts:
                        rows = in_checkout(Path(folder, name), part)
                        found[part].setdefault(name, []).append(rows)
        finally:
            for name in checkouts:
                command = ["git", "worktree", "remove", "--force", f"{folder}/{name}"]
                subprocess.run(command, check=True)
    return {
        part: [row for name in checkouts for row in joined(by_code[name], name)]
        for part, by_code in found.items()
    }


def main() -> None:
    """Measure both commits by turns, and keep."""
    from tools.records.record import keep, load_average

    commit, is_trials = sys.argv[1], sys.argv[2:] == ["trials"]
    command = " ".join(["python -m tools.records.profiles", *sys.argv[1:]])
    some = ROUNDS // 2 + 1
    if is_trials:
        rows = by_turns(commit, {"trials": some})["trials"]
        add_efficiency(rows)
        keep("profiles_trials", command, rows, [TRIALS_NOTE, load_average()])
        return
    tables = by_turns(commit, {"memory": ROUNDS, "layers": some})
    add_efficiency(tables["layers"])
    others = {"layers": tables["layers"]}
    keep("profiles", command, tables["memory"], [*NOTES, load_average()], tables=others)


PARTS = {"memory": memory, "layers": layers, "trials": trials}

if __name__ == "__main__":
    if sys.argv[1] in PARTS:
        as_worker()
        print(json.dumps(PARTS[sys.argv[1]]()))
    else:
        main()
