"""The ranks of one search, each run alone: what the others would have said is read from a record.

One rank that owns everything searches first and keeps the answers of all exchanges. Then any rank
of any partition can run the same loop by itself: its own set-up, its own scores, its own share of
every pick are computed and timed, and every exchange is answered at once from the record.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gfs_dist.errors import PicksDifferError
from gfs_dist.runtime.resources import forget_peak, peak_bytes
from gfs_dist.runtime.spec import Problem
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.step_sizes import decode
from gfs_dist.selection.stop import Stop


@dataclass(frozen=True)
class Record:
    """What the ranks of a search say to each other, whatever the partition.

    Attributes:
        path: what was picked.
        answers: of all exchanges, in order.
    """

    path: GreedyPath
    answers: Sequence[Tensor]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each exchange."""
        return [answer.numel() * answer.element_size() for answer in self.answers]


@dataclass(frozen=True)
class RankTiming:
    """One rank by itself.

    Attributes:
        setup_s: building its objective.
        stretches_s: computing, from one exchange to the next.
        peak_rss_bytes: the most memory that the process held meanwhile.
    """

    setup_s: float
    stretches_s: list[float]
    peak_rss_bytes: int


class _Clocked:
    """Notes how long its rank computes between exchanges, which themselves take no time."""

    def __init__(self) -> None:
        self.stretches_s: list[float] = []
        self._since = time.perf_counter()

    def begin(self) -> None:
        """From now on the rank computes."""
        self._since = time.perf_counter()

    def end(self) -> None:
        """It has come to an exchange, or to its end."""
        self.stretches_s.append(time.perf_counter() - self._since)


class Recorder(_Clocked):
    """The communicator of a rank that owns everything, and keeps what it would have told others.

    It counts itself as one of two, or it would not be asked to share what a pick needs.
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
        self.answers.append(tensor.clone())  # what was asked with may be used again
        self.begin()
        return tensor


class Replayed(_Clocked):
    """The communicator of one rank of a partition whose others only exist in a record.

    Raises:
        PicksDifferError: the rank would have made another decision.
    """

    def __init__(self, rank: int, partition: Partition, record: Record) -> None:
        super().__init__()
        self.rank, self._partition = rank, partition
        self.num_ranks = max(Recorder.num_ranks, partition.num_ranks)
        self._answers = iter(record.answers)

    def minimum(self, values: Tensor) -> Tensor:
        self.end()
        answer = self._next(values)
        if values.dtype == torch.int64:
            self._check(int(values[0]), int(answer[0]))
        self.begin()
        return answer

    def share(self, tensor: Tensor, owner: int) -> Tensor:
        self.end()
        answer = self._next(tensor)
        self.begin()
        return tensor if owner == self.rank else answer

    def _next(self, mine: Tensor) -> Tensor:
        answer = next(self._answers, None)
        if answer is None or (answer.shape, answer.dtype) != (mine.shape, mine.dtype):
            raise PicksDifferError(
                f"rank {self.rank} of {self._partition.num_ranks}: exchanges what the recorded "
                "search did not"
            )
        return answer

    def _check(self, proposed: int, decided: int) -> None:
        """The winner proposes the decision, nobody something that comes before it."""
        # The last bit says how the pick's loss was rounded, which differs with a partition's shape.
        mine = self._partition.owner(decode(decided)[0]) == self.rank
        if proposed >> 1 < decided >> 1 or (mine and proposed >> 1 != decided >> 1):
            raise PicksDifferError(
                f"rank {self.rank} of {self._partition.num_ranks}: proposes "
                f"{decode(proposed)[0]} where the recorded search picked {decode(decided)[0]}"
            )


def record(problem: Problem, stop: Stop, device: torch.device) -> tuple[Record, RankTiming]:
    """Search by one rank; what others would have been told, and how long it took."""
    recorder = Recorder()
    path, timing = _run(
        problem, stop, Partition.contiguous(problem.num_candidates, 1), recorder, device
    )
    return Record(path, recorder.answers), timing


def replay(
    problem: Problem,
    stop: Stop,
    partition: Partition,
    rank: int,
    told: Record,
    device: torch.device,
) -> RankTiming:
    """One rank of ``partition`` by itself.

    Raises:
        PicksDifferError: it would have decided otherwise than the recorded search.
    """
    path, timing = _run(problem, stop, partition, Replayed(rank, partition, told), device)
    if path.picks != told.path.picks:
        raise PicksDifferError(f"rank {rank}: {path.sha256}, recorded {told.path.sha256}")
    return timing


def _run(
    problem: Problem,
    stop: Stop,
    partition: Partition,
    communicator: Recorder | Replayed,
    device: torch.device,
) -> tuple[GreedyPath, RankTiming]:
    forget_peak()
    began = time.perf_counter()
    objective = problem.objective(partition.share(communicator.rank), device, lambda: None)
    _finish(device)
    setup_s = time.perf_counter() - began
    communicator.begin()
    path = greedy(objective, stop, communicator, partition)
    _finish(device)
    communicator.end()
    return path, RankTiming(setup_s, communicator.stretches_s, peak_bytes())


def _finish(device: torch.device) -> None:
    """Wait for what was asked of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class ReplayTask:
    """Items are ranks, which are replayed by workers side by side: the loop without exchanges.

    Attributes:
        problem, stop, partition: of the search.
        told: by its record.
    """

    problem: Problem
    stop: Stop
    partition: Partition
    told: Record

    def run(self, rank: int, device: torch.device, tick: Any) -> RankTiming:
        """See :func:`replay`."""
        return replay(self.problem, self.stop, self.partition, rank, self.told, device)
