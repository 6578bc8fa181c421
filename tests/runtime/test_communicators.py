"""One contract for every communicator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import count

import pytest
import torch

from gfs_dist.runtime import process_group
from gfs_dist.runtime.graph import Graph, GraphCommunicator, make_graph
from gfs_dist.runtime.process_group import CommunicationError, GroupCommunicator, Traffic
from gfs_dist.runtime.store import Address, host_store
from gfs_dist.selection.communicator import Communicator, SingleRank

GRAPHS = ["line", "ring", "star", "tree", "random:1"]
_prefixes = count()


@contextmanager
def _communicator(
    address: Address, prefix: str, rank: int, num_ranks: int, graph: str
) -> Iterator[GroupCommunicator]:
    process_group.join(address, prefix, rank, num_ranks, "gloo")
    try:
        yield (GraphCommunicator(make_graph(graph, num_ranks)) if graph else GroupCommunicator())
    finally:
        process_group.leave()


def _contract(communicator: Communicator) -> None:
    rank, n = communicator.rank, communicator.num_ranks
    for dtype in (torch.float64, torch.int64):
        values = torch.tensor([rank, -rank, (rank + 1) % n, 7], dtype=dtype)
        before = values.clone()
        assert communicator.minimum(values).tolist() == [0, 1 - n, 0, 7]
        assert torch.equal(values, before)
    least = torch.tensor([float("inf") if rank else -1e-300, float("inf")], dtype=torch.float64)
    assert communicator.minimum(least).tolist() == [-1e-300, float("inf")]
    large = torch.tensor([2**63 - 1 - rank])
    assert communicator.minimum(large).item() == 2**63 - n
    for owner in range(n):
        for shape, dtype in (((3, 2), torch.float64), ((5,), torch.float32), ((1,), torch.int64)):
            truth = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype) + owner
            mine = truth.clone() if rank == owner else torch.full(shape, -1, dtype=dtype)
            assert torch.equal(communicator.share(mine, owner), truth)
        assert communicator.minimum(torch.tensor([owner + rank])).item() == owner


def _contract_in(address: Address, prefix: str, rank: int, num_ranks: int, graph: str) -> None:
    with _communicator(address, prefix, rank, num_ranks, graph) as communicator:
        _contract(communicator)


def _count(address: Address, prefix: str, rank: int, num_ranks: int, graph: str) -> list[int]:
    with _communicator(address, prefix, rank, num_ranks, graph) as communicator:
        communicator.minimum(torch.zeros(1, dtype=torch.float64))
        after = communicator.traffic.messages
        communicator.share(torch.zeros(10, dtype=torch.float64), num_ranks - 1)
        traffic = communicator.traffic
        assert traffic.calls == traffic.done == 2
        return [after, traffic.messages - after, traffic.bytes]


def _leave_early(address: Address, prefix: str, rank: int, num_ranks: int, graph: str) -> str:
    with _communicator(address, prefix, rank, num_ranks, graph) as communicator:
        communicator.minimum(torch.zeros(1))
        if rank == 0:
            return "left"
        try:
            while True:
                communicator.minimum(torch.zeros(1))
        except CommunicationError as error:
            assert not torch.distributed.is_initialized()
            return type(error).__name__


def _on_ranks(pool: ProcessPoolExecutor, task: Callable[..., object], n: int, graph: str) -> list:
    store, address = host_store("127.0.0.1")
    prefix = f"test{next(_prefixes)}"
    asked = [pool.submit(task, address, prefix, rank, n, graph) for rank in range(n)]
    answers = [future.result(60) for future in asked]
    del store
    return answers


def test_single_rank_keeps_the_contract() -> None:
    _contract(SingleRank())


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("graph", ["", *GRAPHS])
def test_communicators_keep_the_contract(
    processes: ProcessPoolExecutor, num_ranks: int, graph: str
) -> None:
    _on_ranks(processes, _contract_in, num_ranks, graph)


@pytest.mark.parametrize("name", GRAPHS)
def test_flooding_takes_diameter_rounds_and_sharing_one_message_a_rank(
    processes: ProcessPoolExecutor, name: str
) -> None:
    graph: Graph = make_graph(name, 4)
    counts = _on_ranks(processes, _count, 4, name)
    assert [c[0] for c in counts] == [graph.diameter() * len(n) for n in graph.neighbours]
    assert sum(c[1] for c in counts) == 3
    assert sum(c[2] for c in counts) == 8 * sum(c[0] for c in counts) + 3 * 80


@pytest.mark.parametrize("graph", ["", "ring"])
def test_when_a_rank_leaves_the_others_fail_at_once(
    processes: ProcessPoolExecutor, graph: str
) -> None:
    answers = _on_ranks(processes, _leave_early, 4, graph)
    assert answers == ["left", *["CommunicationError"] * 3]


def test_traffic_counts_bytes_of_every_message() -> None:
    traffic = Traffic()
    traffic.sent(torch.zeros(3, dtype=torch.float64), 2)
    assert (traffic.messages, traffic.bytes) == (2, 48)
