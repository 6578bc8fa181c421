"""Threads that compute with one thread each, and outlive the work of one caller."""

import threading

import pytest
import torch

from gfs_dist.networks.measure.threads import in_threads, one_thread_each


def test_work_in_threads_may_itself_be_divided_among_threads():
    def inner(number: int) -> int:
        return sum(in_threads(lambda other: number * other, range(4)))

    assert list(in_threads(inner, range(9))) == [6 * number for number in range(9)]


def test_a_caller_that_gives_up_leaves_no_work_behind():
    counts, lock = {"begun": 0, "ended": 0}, threading.Lock()

    def work(number: int) -> int:
        with lock:
            counts["begun"] += 1
        torch.randn(300, 300).matmul(torch.randn(300, 300))
        with lock:
            counts["ended"] += 1
        return number

    with pytest.raises(RuntimeError, match="enough"):
        for _ in in_threads(work, range(50)):
            raise RuntimeError("enough")
    assert counts["begun"] == counts["ended"] < 50


def test_threads_are_kept_and_compute_with_one_thread():
    def who(_: int) -> tuple[int, int]:
        return threading.get_ident(), torch.get_num_threads()

    with one_thread_each() as pool:
        first = set(pool.map(who, range(8)))
    with one_thread_each() as pool:
        again = set(pool.map(who, range(8)))
    assert {threads for _, threads in first | again} == {1}
    assert len(first | again) <= torch.get_num_threads()
