"""Connections between ranks: the minimum of any number, and what happens where one is missing."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from gfs_dist.runtime.links import HELLO, Links

HOST = "127.0.0.1"


def connected(count: int, timeout_s: float = 30.0) -> list[Links]:
    store = dist.HashStore()
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda r: Links(store, r, count, HOST, timeout_s), range(count)))


@pytest.mark.parametrize("count", range(1, 10))
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_all_ranks_find_the_minimum(count: int, dtype: torch.dtype) -> None:
    ranks = connected(count)
    assert {links.rounds for links in ranks} == {(count - 1).bit_length()}
    for least in range(count):
        values = [torch.tensor([abs(rank - least), -rank], dtype=dtype) for rank in range(count)]
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(Links.minimum, ranks, values))
        assert all(found.tolist() == [0, 1 - count] for found in values)
    for links in ranks:
        links.close()


def test_who_hangs_up_is_noticed_and_who_is_silent_too() -> None:
    first, second = connected(2, timeout_s=0.2)
    with pytest.raises(TimeoutError):
        first.minimum(torch.zeros(1))
    second.close()
    with pytest.raises(OSError, match="left the group|reset|Broken pipe"):
        for _ in range(3):
            first.minimum(torch.zeros(1))
    first.close()


def test_a_caller_that_is_no_rank_is_left_out() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Links, store, 0, 2, HOST, 30.0)
        host, port = store.get("link0").decode().split()
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(HELLO.pack(77))
            second = pool.submit(Links, store, 1, 2, HOST, 30.0)
            ranks, values = [first.result(), second.result()], [torch.ones(1), torch.zeros(1)]
        list(pool.map(Links.minimum, ranks, values))
    assert values == [torch.zeros(1)] * 2
    for links in ranks:
        links.close()
