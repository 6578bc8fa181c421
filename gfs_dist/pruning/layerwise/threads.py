"""Arithmetic whose last bits do not depend on the number of threads.

A product or factor that several threads share is summed in another order than one thread's.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many Python threads as torch may use, each computing alone: chunks side by side."""
    threads = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(threads, initializer=_alone) as pool:
        yield pool


def _alone() -> None:
    torch.set_num_threads(1)
