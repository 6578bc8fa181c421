"""What is measured of deep networks, as users compare them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from gfs_dist.data import Images
from gfs_dist.networks import batch_size, classify, prefer_channels_last
from gfs_dist.networks.measure import evaluation
from gfs_dist.records import Measured
from gfs_dist.runtime.spec import NoPeers
from gfs_dist.workflows.measures import Measures, training_split
from gfs_dist.workflows.train_deep import measure


class Noting(nn.Linear):
    """Writes down that it was called, and with how many inputs."""

    def __init__(self, name: str, calls: list[tuple[str, int]]) -> None:
        super().__init__(3, 2)
        self.name, self.calls = name, calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.name, len(x)))
        return super().forward(x)


def test_networks_that_are_compared_are_timed_in_turn() -> None:
    """What else a machine does then meets all of them."""
    x, labels = torch.zeros(80, 3), torch.zeros(80, dtype=torch.int64)
    images = Images(x, labels, x, labels, 2)
    calls: list[tuple[str, int]] = []
    networks = [Noting("dense", calls), Noting("small", calls)]
    measures = Measures(images, torch.arange(8), torch.device("cpu"))
    found = measures.latencies(*networks)
    assert list(dict.fromkeys(calls)) == [("dense", 1), ("small", 1), ("dense", 64), ("small", 64)]
    assert calls == sorted(calls, key=list(dict.fromkeys(calls)).index)
    assert [[row["batch"] for row in rows] for rows in found] == [[1, 64], [1, 64]]
    assert all(row["device"] == "cpu" and row["median_s"] > 0 for rows in found for row in rows)


def test_each_image_of_the_test_split_goes_through_a_network_once() -> None:
    """After one sample that shows how many fit."""
    x, labels = torch.randn(30, 3), torch.arange(30) % 2
    images = Images(x, labels, x[:20], labels[:20], 2)
    network, told = Noting("dense", []), list[tuple[int, int]]()
    measures = Measures(images, torch.arange(8), torch.device("cpu"))
    found = measures.facts(network, lambda *row: told.append(row))
    assert found["accuracy"] == classify(network, [(x[:20], labels[:20])]).accuracy
    train = classify(network, [(x[:8], labels[:8])])
    assert found["loss"] == found["loss_train"] == pytest.approx(train.loss)
    assert found["accuracy_train"] == train.accuracy
    assert told == [(0, 1), (1, 1)]
    told.clear()
    known: Measured = {"accuracy": 0.25, "accuracy_train": 0.5, "loss_test": 2.0}
    again = measures.facts(network, lambda *row: told.append(row), known)
    assert again == {**found, "accuracy": 0.25, "loss_test": 2.0}
    assert told == []


@pytest.mark.parametrize("num_ranks", [1, 3, 40])
def test_ranks_measure_their_parts_of_both_splits(num_ranks: int) -> None:
    """Also where there are more ranks than images."""
    x, labels = torch.randn(60, 3), torch.arange(60) % 2
    images = Images(x, labels, x[:20] + 1, labels[:20], 2)
    network, sums = Noting("dense", []), list[list[Tensor]]()
    for rank in range(num_ranks):
        sums.append([])
        measure(network, images, 0, Adding(rank, num_ranks, sums[-1]), lambda: None)
    averages = [torch.stack(parts).mean(0) for parts in zip(*sums, strict=True)]
    found = measure(network, images, 0, Telling(0, num_ranks, averages), lambda: None)
    rows = training_split(images, 0).rows
    assert len(rows) == 20
    assert labels[rows].bincount().tolist() == [10, 10]
    for split, data in (("_train", (x[rows], labels[rows])), ("_test", (x[:20] + 1, labels[:20]))):
        expected = classify(network, [data])
        assert found["loss_train" if split == "_train" else "loss_test"] == pytest.approx(
            expected.loss, rel=1e-6
        )
        assert found["accuracy_train" if split == "_train" else "accuracy"] == expected.accuracy


class Adding(NoPeers):
    """Keeps what this rank gives to averages."""

    def __init__(self, rank: int, num_ranks: int, tensors: list[Tensor]) -> None:
        self.rank, self.num_ranks, self.tensors = rank, num_ranks, tensors

    def average(self, tensors: Sequence[Tensor]) -> None:
        self.tensors += [tensor.clone() for tensor in tensors]


class Telling(Adding):
    """Gives averages."""

    def average(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(self.tensors.pop(0))


def test_a_batch_is_as_large_as_the_largest_result_lets_it_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "BYTES_PER_THREAD", 40_000)
    network = nn.Sequential(nn.Linear(100, 1000), nn.Linear(1000, 10))
    assert batch_size(network, torch.zeros(1, 100)) == 10  # 4,000 bytes a sample
    assert network.training
    assert batch_size(nn.Linear(100, 10), torch.zeros(1, 100)) == 100  # the input
    assert batch_size(nn.Linear(10, 20_000), torch.zeros(1, 10)) == 1


def test_channels_come_last_only_where_the_network_runs_so() -> None:
    x = torch.randn(5, 3, 8, 8)
    for flatten, runs in ((nn.Flatten(), True), (View(), False)):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), flatten, nn.Linear(4 * 36, 2))
        expected = network(x)
        prefer_channels_last(network, x[:2])
        assert network[0].weight.is_contiguous() != runs
        torch.testing.assert_close(network(x), expected)
        assert network.training


class View(nn.Module):
    """Flattens features that lie in the usual order, no others."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)
