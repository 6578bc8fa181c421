"""What a coordinator costs a step: ranks under its watchdog against ranks without any.

python -m tools.records.service WORK overhead; ``python -m tools.records.step_cost CASE RANK PORT``
is one of the ranks without a watchdog.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gfs_dist._allocator import keep_freed_memory
from gfs_dist.bench.model.timing_model import spread
from gfs_dist.cli.display import PlainReporter
from gfs_dist.files.run_folder import RunFolder
from gfs_dist.runtime import Progress, Runtime, RuntimeSpec, WorkerRuntime, open_runtime
from gfs_dist.runtime import collectives as process_group
from gfs_dist.runtime.collectives import GroupCommunicator
from gfs_dist.runtime.store import host_store
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.stop import Stop
from gfs_dist.workflows.run_events import RunEvents
from tests.runtime.problems import MatrixProblem, matrix_problem

HOST, RANKS, ROUNDS = "127.0.0.1", 2, 5
BARE = "bare loop"
LOCAL, RAY, RAY_METRICS = "local workers", "Ray actors, no metrics", "Ray actors"
COMPARED = ((BARE, None), (LOCAL, BARE), (RAY, BARE), (RAY_METRICS, BARE), (RAY_METRICS, RAY))
NOTES = [
    f"overhead: {RANKS} ranks of one thread, {ROUNDS} rounds in which all take turns; more: the "
    "median of the ratios within a round. Watched ranks send signs of life and picks; the "
    "coordinator writes events, prints progress and, with Ray, counts metrics. ms a step: in the "
    "ranks' loop, as the clock has it, which other programs disturb; CPU: of all ranks and of the "
    "coordinator's process, a rank, setting up and forming the group included, which they disturb "
    "little",
]

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A search; ``steps`` so many that it takes seconds."""

    method: str
    samples: int
    neurons: int
    steps: int

    def problem(self) -> MatrixProblem:
        return matrix_problem(0, self.samples, self.neurons, self.method)

    def __str__(self) -> str:
        return f"{self.samples:,} samples, {self.neurons:,} neurons, {self.method}"


CASES = (Case("exhaustive", 5000, 1000, 100), Case("lazy", 5000, 1000, 1000))


@dataclass(frozen=True)
class Search:
    """Seconds of a search in the loop of its slowest rank; CPU seconds of all; and its picks."""

    loop_s: float
    cpu_s: float
    picks: str


class BareRanks:
    """Processes that search at each line of standard input, and do nothing else."""

    def __init__(self, case: Case) -> None:
        self._store, (_, port) = host_store(HOST)
        command = [sys.executable, "-m", "tools.records.step_cost", json.dumps(asdict(case))]
        self._ranks = [
            subprocess.Popen(
                [*command, str(rank), str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # as workers have: sessions share the cores evenly
            )
            for rank in range(RANKS)
        ]

    def search(self) -> Search:
        pids = [rank.pid for rank in self._ranks]
        before = cpu_seconds(pids)
        for rank in self._ranks:
            assert rank.stdin is not None
            print("search", file=rank.stdin, flush=True)
        answers = [json.loads(rank.stdout.readline()) for rank in self._ranks if rank.stdout]
        loop_s = max(seconds for seconds, _ in answers)
        return Search(loop_s, cpu_seconds(pids) - before, answers[0][1])

    def close(self) -> None:
        for rank in self._ranks:
            rank.communicate()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of those processes so far, all their threads."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(found[11]) + int(found[12]) for found in fields) / os.sysconf("SC_CLK_TCK")


def bare_rank(case: Case, rank: int, port: int) -> None:
    """Search once for every line of standard input."""
    keep_freed_memory()
    torch.set_num_threads(1)
    problem = case.problem()
    partition = Partition.contiguous(problem.num_candidates, RANKS)
    for number, _ in enumerate(sys.stdin):
        objective = problem.objective(partition.share(rank), torch.device("cpu"), lambda: None)
        process_group.join((HOST, port), f"search{number}", rank, RANKS, "gloo")
        began = time.perf_counter()
        path = greedy(objective, Stop(case.steps), GroupCommunicator(), partition)
        seconds = time.perf_counter() - began
        process_group.leave()
        print(json.dumps([seconds, path.sha256]), flush=True)


def supervised(
    runtime: WorkerRuntime, case: Case, problem: MatrixProblem, pids: Sequence[int], folder: Path
) -> Search:
    """The same by a runtime of those processes, with all that a job does on the way."""
    before = cpu_seconds(pids)
    with RunFolder.create(folder, "") as run, (folder / "log").open("w") as log:
        reporter = PlainReporter(log)
        reporter.phase("search", case.steps)

        def show(progress: Progress) -> None:
            path = progress.path
            reporter.step(len(path), path.loss[-1] if path.loss else None, kept=path.num_kept)

        events = RunEvents(run, reporter)
        runtime.observers.append(events)
        found = runtime.search(problem, Stop(case.steps), on_progress=show)
        runtime.observers.remove(events)
    loop_s = max(row["compute_s"] + row["exchange_s"] for row in found.timing["ranks"])
    return Search(loop_s, cpu_seconds(pids) - before, found.path.sha256)


@contextmanager
def ways(case: Case, work: Path) -> Iterator[dict[str, Callable[[int], Search]]]:
    """All ways to search, ready; each takes the number of the round."""
    problem, spec = case.problem(), partial(RuntimeSpec, workers=RANKS, threads=1, device="cpu")
    with ExitStack() as stack:
        bare = BareRanks(case)
        stack.callback(bare.close)
        metered = stack.enter_context(open_runtime(spec(kind="ray")))
        plain = copy.copy(metered)
        plain.observers = []
        runtimes: dict[str, Runtime] = {
            LOCAL: stack.enter_context(open_runtime(spec(kind="local"))),
            RAY: plain,
            RAY_METRICS: metered,
        }

        def by(name: str) -> Callable[[int], Search]:
            folder = work / case.method / name.replace(" ", "_")
            runtime = runtimes[name]
            assert isinstance(runtime, WorkerRuntime)
            pool = runtime.pool
            pids = [os.getpid(), *(pool.process(worker)["pid"] for worker in pool.members())]
            search = partial(supervised, runtime, case, problem, pids)
            return lambda number: search(folder / str(number))

        yield {BARE: lambda _: bare.search(), **{name: by(name) for name in runtimes}}


def measure(work: Path) -> list[Row]:
    """Rows of all cases."""
    rows = []
    for case in CASES:
        found = _searches(case, work)
        rows += [_row(case, found, name, against) for name, against in COMPARED]
    return rows


def _searches(case: Case, work: Path) -> dict[str, list[Search]]:
    found: dict[str, list[Search]] = {}
    with ways(case, work) as ready:
        names = list(ready)
        for number in range(1 + ROUNDS):  # the first warms up
            first = number % len(names)
            for name in names[first:] + names[:first]:
                search = ready[name](number)
                if number:
                    found.setdefault(name, []).append(search)
    assert len({search.picks for searches in found.values() for search in searches}) == 1
    return found


def _row(case: Case, found: dict[str, list[Search]], name: str, against: str | None) -> Row:
    times = [1000 * search.loop_s / case.steps for search in found[name]]
    cpu = [1000 * search.cpu_s / case.steps / RANKS for search in found[name]]
    row: Row = {
        "search": str(case),
        "by": name,
        "ms a step": spread(times),
        "CPU ms a step": statistics.median(cpu),
        "against": against,
        "more, %": None,
        "more CPU, %": None,
    }
    if against is not None:
        pairs = list(zip(found[name], found[against], strict=True))
        row["more, %"] = _percent([mine.loop_s / other.loop_s for mine, other in pairs])
        row["more CPU, %"] = _percent([mine.cpu_s / other.cpu_s for mine, other in pairs])
    return row


def _percent(ratios: list[float]) -> float:
    return 100 * (statistics.median(ratios) - 1)


if __name__ == "__main__":
    bare_rank(Case(**json.loads(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))
