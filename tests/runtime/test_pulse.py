"""What a worker tells belongs to the generation it is told in."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable

import pytest
from torch.distributed import TCPStore

from gfs_dist.runtime.fault_injection import cut_connections
from gfs_dist.runtime.heartbeat import Beat, Pulse, beat_key
from gfs_dist.runtime.news import PathNews, extend, part_key, piece
from gfs_dist.runtime.store import connect, host_store
from gfs_dist.runtime.tracker import Tracker
from gfs_dist.selection.path import GreedyPath


def path_of(length: int) -> GreedyPath:
    path = GreedyPath(100)
    for k in range(length):
        path.append(k, 1.0 / (k + 1), 1.0 / (k + 1))
    path.gap = [0.5 if k < length - length % 32 else None for k in range(length)]
    return path


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("cuts", [[0, 70], [0, 1, 40, 64, 65, 70], [5, 33, 70]])
def test_pieces_put_together_are_the_path(cuts: list[int]) -> None:
    whole, built = path_of(70), path_of(cuts[0])
    for first, end in itertools.pairwise(cuts):
        part = json.loads(json.dumps(piece(path_of(end), first, end)))
        extend(built, part)
    assert built == whole


def test_a_new_generation_reports_nothing_of_the_one_before() -> None:
    store, address = host_store("127.0.0.1")
    pulse = Pulse(address, "w0")

    def beat() -> Beat:
        return Beat(**json.loads(store.get(beat_key("w0"))))

    path = path_of(0)
    news = PathNews(path)
    pulse.enter("work", 3)
    pulse.follow(news)
    tracker = Tracker(GreedyPath(100), None)
    tracker.begin(3, GreedyPath(100), 1)
    extend(path, piece(path_of(20), 0, 20))
    news.steps = 20
    pulse.wake()
    wait_for(lambda: beat().parts == 1)
    assert tracker.read(store, beat())
    assert tracker.path.picks == list(range(20))
    assert not tracker.read(store, beat())

    pulse.enter("setup", 4)  # with picks that were never told
    news.steps = 25
    wait_for(lambda: beat().generation == 4)
    assert beat().parts == 0
    assert not store.check([part_key(4, 0)])
    tracker.begin(4, path_of(20), 1)
    assert not tracker.read(store, beat())


def test_a_connection_that_is_cut_is_made_again_and_no_news_are_lost() -> None:
    store, address = host_store("127.0.0.1")
    pulse = Pulse(address, "w0")
    path = path_of(0)
    news = PathNews(path)
    pulse.enter("work", 0)
    pulse.follow(news)
    tracker = Tracker(GreedyPath(100), None)
    tracker.begin(0, GreedyPath(100), 1)

    def told(store: TCPStore, length: int) -> bool:
        tracker.read(store, Beat(**json.loads(store.get(beat_key("w0")))))
        return len(tracker.path) == length

    extend(path, piece(path_of(10), 0, 10))
    news.steps = 10
    wait_for(lambda: store.check([beat_key("w0")]))
    wait_for(lambda: told(store, 10))
    cut_connections()  # this process is worker and coordinator: what was asked over is cut, too
    extend(path, piece(path_of(30), 10, 30))
    news.steps = 30
    again = connect(address)
    wait_for(lambda: told(again, 30))
    assert tracker.path.picks == list(range(30))
