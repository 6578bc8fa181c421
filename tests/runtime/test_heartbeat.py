"""What a worker reports belongs to the generation it is reported in, and is never lost."""

from __future__ import annotations

from torch.distributed import TCPStore

from gfs_dist.runtime.fault_injection import cut_connections
from gfs_dist.runtime.heartbeat import (
    FeedEntry,
    HeartbeatThread,
    WorkerPhase,
    read_feed,
    read_heartbeats,
)
from gfs_dist.runtime.store import connect, host_store


class Reader:
    """Reads a feed chunk by chunk, waiting for each."""

    def __init__(self, generation: int) -> None:
        self.generation, self.chunks = generation, 0

    def read(self, store: TCPStore, count: int) -> list[FeedEntry]:
        entries: list[FeedEntry] = []
        while len(entries) < count:
            entries += read_feed(store, self.generation, self.chunks, self.chunks + 1)
            self.chunks += 1
        return entries


def test_a_new_generation_reports_nothing_of_the_one_before() -> None:
    store, address = host_store("127.0.0.1")
    thread = HeartbeatThread(address, "w0")
    thread.enter(WorkerPhase.WORK, 3)
    for step in range(1, 21):
        thread.feed(step, step / 3)
        thread.beat.step = step
    assert Reader(3).read(store, 20) == [(step, step / 3) for step in range(1, 21)]
    (beat,) = read_heartbeats(store, ["w0"])
    assert (beat.generation, beat.phase) == (3, "work")

    thread.feed(21, "never reported, or in generation 3")
    thread.enter(WorkerPhase.SETUP, 4)
    thread.feed(1, "new")
    assert Reader(4).read(store, 1) == [(1, "new")]


def test_a_connection_that_is_cut_is_made_again_and_nothing_is_lost() -> None:
    store, address = host_store("127.0.0.1")
    thread = HeartbeatThread(address, "w0")
    thread.enter(WorkerPhase.WORK, 0)
    reader = Reader(0)
    for step in range(10):
        thread.feed(step, None)
    assert reader.read(store, 10) == [(step, None) for step in range(10)]
    cut_connections()  # this process is worker and coordinator: both ends
    for step in range(10, 30):
        thread.feed(step, None)
    assert reader.read(connect(address), 20) == [(step, None) for step in range(10, 30)]
