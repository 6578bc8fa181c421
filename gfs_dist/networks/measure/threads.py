"""Arithmetic whose last bits do not depend on the number of threads.

A product or factor that several threads share is summed in another order than one thread's.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar
from weakref import WeakSet

import torch

from gfs_dist.selection.objectives.block_least_squares import one_thread

__all__ = ["in_threads", "one_thread", "one_thread_each"]

Item = TypeVar("Item")
Value = TypeVar("Value")


class Pool(ThreadPoolExecutor):
    """Threads that each compute with one thread, and are kept: to start one costs milliseconds."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, initializer=_alone)
        self._given = WeakSet[Future[Any]]()

    def submit(self, fn: Callable[..., Value], /, *args: Any, **kwargs: Any) -> Future[Value]:
        future = super().submit(fn, *args, **kwargs)
        self._given.add(future)
        return future

    def settle(self) -> None:
        """Wait until nothing is at work."""
        wait(list(self._given))


class _Kept(threading.local):
    """The pools of each thread: work that waits for its own pool would never end."""

    def __init__(self) -> None:
        self.pools: dict[tuple[int, int], Pool] = {}


_kept = _Kept()


@contextmanager
def one_thread_each() -> Iterator[Pool]:
    """A pool of as many Python threads as torch may use, each computing with one thread."""
    key = os.getpid(), torch.get_num_threads()  # a fork has none of its parent's threads
    if key not in _kept.pools:
        _kept.pools[key] = Pool(key[1])
    pool = _kept.pools[key]
    with exact(), one_thread():
        try:
            yield pool
        finally:
            pool.settle()


def exact() -> AbstractContextManager[None]:
    """On GPUs, convolutions in float32, not TensorFloat-32, by deterministic algorithms."""
    if not torch.cuda.is_available():
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


def in_threads(work: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """``work`` of each item, in order, in threads that each compute with one thread.

    At most two items a thread are running or waiting to be taken, so that results of a slow
    caller do not pile up.
    """
    most = 2 * torch.get_num_threads()
    waiting: deque[Future[Value]] = deque()
    with one_thread_each() as pool:
        for item in items:
            if len(waiting) == most:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()


def _alone() -> None:
    torch.set_num_threads(1)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # creates this thread's context; cuBLAS warns without one
