"""One contract for every communicator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import count
from multiprocessing import get_context

import pytest
import torch
from torch import Tensor

from gfs_dist.runtime import collectives as process_group
from gfs_dist.runtime.collectives import CommunicationError, GroupCommunicator, GroupPeers, Traffic
from gfs_dist.runtime.graph import Graph, GraphCommunicator, make_graph
from gfs_dist.runtime.store import Address, host_store
from gfs_dist.selection.objective import Communicator, SingleRank

GRAPHS = ["line", "ring", "star", "tree", "random:1"]
_prefixes = count()


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Four processes to be ranks in."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["gfs_dist.runtime.graph"])  # torch is imported once
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        yield pool


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
        assert communicator.minimum(values).tolist() == [0, 1 - n, 0, 7]
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


def _peers(address: Address, prefix: str, rank: int, num_ranks: int, _: str) -> list[Tensor]:
    process_group.join(address, prefix, rank, num_ranks, "gloo")
    try:
        peers = GroupPeers()
        generator = torch.Generator().manual_seed(rank)
        sizes = [(3,), (), (5, 7), (0,), (1000,), (2, 3, 4)]
        floats = [torch.randn(size, generator=generator) for size in sizes]
        floats.insert(2, torch.randn(9, generator=generator).double())
        floats.append(torch.full((4,), 1.0 + rank, dtype=torch.bfloat16))
        floats.append(torch.randn(6, 5, generator=generator).T)
        floats[0].requires_grad_()
        peers.average(floats)
        mixed = [torch.tensor([rank, 2**60 + rank]), torch.tensor([rank == 1]), torch.tensor(rank)]
        for owner in range(num_ranks):
            mine = [tensor.clone() for tensor in mixed]
            peers.broadcast(mine, owner)
            assert [t.tolist() for t in mine] == [[owner, 2**60 + owner], [owner == 1], owner]
        peers.barrier()
        assert peers.traffic.calls == peers.traffic.done == num_ranks + 2
        assert all(tensor.grad_fn is None for tensor in floats)
        return [tensor.detach() for tensor in floats]
    finally:
        process_group.leave()


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_peers_average_and_broadcast(processes: ProcessPoolExecutor, num_ranks: int) -> None:
    answers = _on_ranks(processes, _peers, num_ranks, "")
    again = _on_ranks(processes, _peers, num_ranks, "")
    given = []
    for rank in range(num_ranks):
        generator = torch.Generator().manual_seed(rank)
        sizes = [(3,), (), (5, 7), (0,), (1000,), (2, 3, 4)]
        floats = [torch.randn(size, generator=generator) for size in sizes]
        floats.insert(2, torch.randn(9, generator=generator).double())
        given.append(
            [
                *floats,
                torch.full((4,), 1.0 + rank, dtype=torch.bfloat16),
                torch.randn(6, 5, generator=generator).T,
            ]
        )
    for place, parts in enumerate(zip(*given, strict=True)):
        mean = torch.stack([part.double() for part in parts]).mean(0)
        for answer in (*answers, *again):
            assert torch.equal(answer[place], answers[0][place])
        assert answers[0][place].dtype == parts[0].dtype
        tolerance = 0.01 if parts[0].dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(answers[0][place].double(), mean, rtol=tolerance, atol=1e-6)


def test_buckets_are_of_one_dtype_in_order_and_bounded() -> None:
    wide, narrow = torch.zeros(10), torch.zeros(10, dtype=torch.float64)
    tensors = [wide, wide, wide, torch.zeros(0), narrow, wide, torch.zeros(100), wide]
    runs = process_group.buckets(tensors, 80)
    assert [[t.numel() for t in run] for run in runs] == [[10, 10], [10], [10], [10], [100], [10]]
    assert [run[0].dtype for run in runs] == [torch.float32] * 2 + [torch.float64] + [
        torch.float32
    ] * 3
