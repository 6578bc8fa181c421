"""Ranks that work one after another in one process, each timed alone.

For machines with fewer cores or GPUs than ranks: nothing disturbs the rank that is timed, and what
many would take together follows from their times. A rank that owns everything searches first, and
the answers of all its exchanges are recorded. Any rank of any partition then replays the same loop
by itself: it sets up, scores and shares its own part, and every exchange is answered at once from
the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gfs_dist.bench.model.timing_model import Exchange, critical_path
from gfs_dist.bench.search_time import SearchTime
from gfs_dist.errors import PicksDifferError
from gfs_dist.runtime import (
    InProcessRuntime,
    MapResult,
    OnItem,
    OnProgress,
    Problem,
    RuntimeSpec,
    SearchJob,
    SearchResult,
    Task,
)
from gfs_dist.runtime.resources import forget_peak, peak_bytes
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.step_sizes import decode
from gfs_dist.selection.stop import Stop


@dataclass(frozen=True)
class Record:
    """What the ranks of a search say to each other, whatever the partition: path, and the answers
    of all exchanges in order.
    """

    path: GreedyPath
    answers: Sequence[Tensor]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each exchange."""
        return [answer.numel() * answer.element_size() for answer in self.answers]


@dataclass(frozen=True)
class RankTime:
    """One rank by itself.

    Attributes:
        setup_s: building its objective.
        stretches_s: computing, from one exchange to the next.
        peak_bytes: the most memory that the process held meanwhile.
    """

    setup_s: float
    stretches_s: list[float]
    peak_bytes: int


class TimedSearch(NamedTuple):
    """A search whose ranks were timed one by one, for several numbers of ranks.

    Attributes:
        record: what they exchange.
        ranks: by their number, each rank's time.
    """

    record: Record
    ranks: dict[int, list[RankTime]]

    def critical_path(self, number: int, exchange: Exchange) -> SearchTime:
        """What so many ranks take together: max_r set-up + sum_j max_r stretch + exchanges."""
        own = self.ranks[number]
        path = critical_path([one.setup_s for one in own], [one.stretches_s for one in own])
        exchange_s = sum(exchange.seconds(number, size) for size in self.record.sizes)
        return SearchTime(
            seconds=path.setup_s + path.steps_s + exchange_s,
            setup_s=path.setup_s,
            compute_s=path.steps_s,
            exchange_s=exchange_s,
            wait_s=path.wait_s,
            peak_bytes=max(one.peak_bytes for one in own),
            path=self.record.path,
            phases={"set-up": path.setup_s, "steps": path.steps_s},
        )


class OneRankAtATime(InProcessRuntime):
    """Searches once, then times every rank of every contiguous partition; times items of maps.

    Args:
        ranks: numbers of ranks to time.
        device: as in :class:`RuntimeSpec`; ``cuda`` is one GPU for all.
        threads: torch threads of a rank.

    Attributes:
        searches: each search.
        maps: of each map, seconds of each item.
        inside_s: time spent in here; a caller's own work is what it took besides.
    """

    def __init__(self, ranks: Sequence[int], device: str = "auto", threads: int = 1) -> None:
        super().__init__(RuntimeSpec("none", 1, device, threads))
        self.ranks = tuple(ranks)
        self.num_ranks = max(ranks)  # common work is divided for all of them
        self.forget()

    def forget(self) -> None:
        self.searches: list[TimedSearch] = []
        self.maps: list[list[float]] = []
        self.inside_s = 0.0

    def _do_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult:
        """The search of one rank; contiguous parts of it are then timed.

        Raises:
            PicksDifferError: a rank would have decided otherwise.
        """
        assert job.partition is None and not job.path.picks, "contiguous, from the beginning"
        began, problem = time.perf_counter(), job.problem
        recorded, whole = record(problem, job.stop, self.device)
        times = {1: [whole]}
        for number in self.ranks:
            if number > 1:
                parts = Partition.contiguous(problem.num_candidates, number)
                task = Replay(problem, job.stop, parts, recorded)
                times[number] = [
                    task.run(rank, self.device, lambda: None) for rank in range(number)
                ]
        self.searches.append(TimedSearch(recorded, times))
        self.inside_s += time.perf_counter() - began
        return SearchResult(path=recorded.path, timing={})

    def _do_map(
        self, task: Task, items: Sequence[Any], keep: bool, report: OnItem | None
    ) -> MapResult:
        began, seconds, values = time.perf_counter(), [], []
        for item in items:
            start = time.perf_counter()
            values.append(task.run(item, self.device, lambda: None))
            seconds.append(time.perf_counter() - start)
        self.maps.append(seconds)
        self.inside_s += time.perf_counter() - began
        return MapResult(values=values, timing={})


class _TimedCommunicator:
    """Times what its rank computes between exchanges, which themselves take no time."""

    def __init__(self) -> None:
        self.stretches_s: list[float] = []
        self.begin()

    def begin(self) -> None:
        """The rank computes from now on."""
        self._since = time.perf_counter()

    def end(self) -> None:
        """The rank has come to an exchange, or to its end."""
        self.stretches_s.append(time.perf_counter() - self._since)


class _RecordingCommunicator(_TimedCommunicator):
    """Of a rank that owns everything: keeps what other ranks would have received.

    The rank counts as one of two, or the loop would not share what a pick needs.
    """

    rank = 0
    num_ranks = 2

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Tensor] = []

    def minimum(self, values: Tensor) -> Tensor:
        return self._keep(values)

    def share(self, tensor: Tensor, owner: int) -> Tensor:
        return self._keep(tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        self.end()
        self.answers.append(tensor.clone())  # the loop may write to its own again
        self.begin()
        return tensor


class _ReplayCommunicator(_TimedCommunicator):
    """Of one rank of a partition whose other ranks only exist in a record.

    Raises:
        PicksDifferError: the rank would have made another decision.
    """

    def __init__(self, rank: int, partition: Partition, record: Record) -> None:
        super().__init__()
        self.rank, self._partition = rank, partition
        self.num_ranks = max(_RecordingCommunicator.num_ranks, partition.num_ranks)
        self._answers = iter(record.answers)

    def minimum(self, values: Tensor) -> Tensor:
        answer = self._next(values)
        if values.dtype == torch.int64:
            self._check(int(values[0]), int(answer[0]))
        self.begin()
        return answer

    def share(self, tensor: Tensor, owner: int) -> Tensor:
        answer = self._next(tensor)
        self.begin()
        return tensor if owner == self.rank else answer

    def _next(self, mine: Tensor) -> Tensor:
        self.end()
        answer = next(self._answers, None)
        if answer is None or (answer.shape, answer.dtype) != (mine.shape, mine.dtype):
            raise PicksDifferError(
                f"rank {self.rank} of {self._partition.num_ranks}: exchanges what the recorded "
                "search did not"
            )
        return answer

    def _check(self, proposed: int, decided: int) -> None:
        """The winning rank proposes the decision, no rank anything that comes before it."""
        # The last bit says how the pick's loss was rounded, which differs with a partition's shape.
        mine = self._partition.owner(decode(decided)[0]) == self.rank
        if proposed >> 1 < decided >> 1 or (mine and proposed >> 1 != decided >> 1):
            raise PicksDifferError(
                f"rank {self.rank} of {self._partition.num_ranks}: proposes "
                f"{decode(proposed)[0]} where the recorded search picked {decode(decided)[0]}"
            )


def record(problem: Problem, stop: Stop, device: torch.device) -> tuple[Record, RankTime]:
    """Search by one rank: what other ranks would have received, and how long it took."""
    communicator, whole = _RecordingCommunicator(), Partition.contiguous(problem.num_candidates, 1)
    path, taken = _run(problem, stop, whole, communicator, device)
    return Record(path, communicator.answers), taken


@dataclass(frozen=True)
class Replay:
    """A task whose items are ranks: each runs by itself the loop of a search that is recorded."""

    problem: Problem
    stop: Stop
    partition: Partition
    recorded: Record

    def run(self, rank: int, device: torch.device, tick: Callable[[], None]) -> RankTime:
        """One rank.

        Raises:
            PicksDifferError: it would have decided otherwise than the recorded search.
        """
        communicator = _ReplayCommunicator(rank, self.partition, self.recorded)
        path, taken = _run(self.problem, self.stop, self.partition, communicator, device)
        if path.picks != self.recorded.path.picks:
            raise PicksDifferError(
                f"rank {rank}: {path.sha256}, recorded {self.recorded.path.sha256}"
            )
        return taken


def _run(
    problem: Problem,
    stop: Stop,
    partition: Partition,
    communicator: _RecordingCommunicator | _ReplayCommunicator,
    device: torch.device,
) -> tuple[GreedyPath, RankTime]:
    forget_peak()
    began = time.perf_counter()
    objective = problem.objective(partition.share(communicator.rank), device, lambda: None)
    _finish(device)
    setup_s = time.perf_counter() - began
    communicator.begin()
    path = greedy(objective, stop, communicator, partition)
    _finish(device)
    communicator.end()
    return path, RankTime(setup_s, communicator.stretches_s, peak_bytes())


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
