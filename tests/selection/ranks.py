"""Many ranks in one process: threads that meet at a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop


class Threads:
    """What the ranks of one search share; counts the bytes each of them sends."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.barrier = threading.Barrier(num_ranks, timeout=600)
        self.slots: list[Tensor] = [torch.empty(0)] * num_ranks
        self.reduced_bytes = 0
        self.shared_bytes = 0

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        self.slots[rank] = tensor.clone()
        self.barrier.wait()
        everybody = list(self.slots)
        self.barrier.wait()
        return everybody


class ThreadCommunicator:
    """The communicator of one rank among threads."""

    def __init__(self, threads: Threads, rank: int) -> None:
        self._threads, self.rank, self.num_ranks = threads, rank, threads.num_ranks

    def minimum(self, values: Tensor) -> Tensor:
        if self.rank == 0:
            self._threads.reduced_bytes += values.numel() * values.element_size()
        return torch.stack(self._threads.exchange(self.rank, values)).amin(0)

    def share(self, tensor: Tensor, owner: int) -> Tensor:
        if self.rank == 0:
            self._threads.shared_bytes += tensor.numel() * tensor.element_size()
        return self._threads.exchange(self.rank, tensor)[owner]


def search(
    build: Callable[[Tensor], Objective] | None,
    partition: Partition,
    stop: Stop,
    path: GreedyPath | None = None,
    objectives: list[Objective] | None = None,
) -> tuple[list[GreedyPath], Threads]:
    """One search by as many ranks as the partition has parts; the path of each rank.

    Their objectives are given, or built here.
    """
    threads = Threads(partition.num_ranks)

    def run(rank: int) -> GreedyPath:
        try:
            if objectives is not None:
                objective = objectives[rank]
            else:
                assert build is not None
                objective = build(partition.parts[rank])
            start = path.prefix(len(path)) if path else None
            return greedy(objective, stop, ThreadCommunicator(threads, rank), partition, path=start)
        except BaseException:
            threads.barrier.abort()
            raise

    with ThreadPoolExecutor(partition.num_ranks) as pool:
        futures = [pool.submit(run, rank) for rank in range(partition.num_ranks)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:  # those that waited for a rank which failed tell nothing
        told = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
        raise (told or errors)[0]
    return [future.result() for future in futures], threads
