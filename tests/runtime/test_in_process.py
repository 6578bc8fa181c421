"""Maps and group tasks without workers: the same interface in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gfs_dist.runtime import (
    GroupProgress,
    MapProgress,
    NoPeers,
    Peers,
    RuntimeSpec,
    Tick,
    open_runtime,
)
from tests.runtime.tasks import Count, Square

ALONE = RuntimeSpec(kind="none", threads=1)


def test_a_map_in_this_process_keeps_the_order_and_tells_every_item() -> None:
    told: list[MapProgress] = []
    with open_runtime(ALONE) as runtime:
        found = runtime.map(Square(), [3, 1, 2], told.append)
    assert list(found) == [9, 1, 4]
    assert (len(found), found[-1], found.faults) == (3, 4, [])
    assert [(p.place, p.value) for p in told] == [(0, 9), (1, 1), (2, 4)]
    assert [(p.step, p.total) for p in told] == [(1, 3), (2, 3), (3, 3)]
    (row,) = found.timing["ranks"]
    assert (row["rank"], row["items"]) == (0, 3)
    assert [row["event"] for row in found.events] == ["rank_started", *["step"] * 3, "finished"]
    assert [e for p in told for e in p.events] == found.events[:-1]


def test_a_map_of_nothing_is_empty() -> None:
    with open_runtime(ALONE) as runtime:
        assert list(runtime.map(Square(), [])) == []


def test_a_group_of_one_rank_runs_in_this_process(tmp_path: Path) -> None:
    told: list[GroupProgress] = []
    with open_runtime(ALONE) as runtime:
        found = runtime.run_group(Count(tmp_path), told.append)
        again = runtime.run_group(Count(tmp_path, steps=25)).value
    assert found.value["total"] == sum(range(21))
    assert (again["first"], again["total"]) == (20, sum(range(26)))
    values = [value for progress in told for value in progress.values]
    assert values == [(k, float(sum(range(k + 1)))) for k in range(1, 21)]
    assert told[-1].step == 20
    assert [row for progress in told for row in progress.events] == found.events
    assert found.timing["ranks"][0]["compute_s"] > 0.0


def test_a_rank_without_peers_changes_nothing() -> None:
    peers, tensor = NoPeers(), torch.arange(3.0)
    peers.average([tensor])
    peers.broadcast([tensor])
    peers.barrier()
    assert (peers.rank, peers.num_ranks, tensor.tolist()) == (0, 1, [0.0, 1.0, 2.0])


def test_an_error_of_a_task_is_raised_as_it_is(tmp_path: Path) -> None:
    with open_runtime(ALONE) as runtime, pytest.raises(TypeError, match="can't multiply"):
        runtime.map(Square(), ["a"])


class TellsTensors:
    def run(self, peers: Peers, device: torch.device, tick: Tick) -> None:
        tick(1, torch.ones(1))


def test_only_plain_values_are_told() -> None:
    with open_runtime(ALONE) as runtime, pytest.raises(TypeError, match="not JSON serializable"):
        runtime.run_group(TellsTensors())
