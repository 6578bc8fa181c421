"""What is measured of deep networks, as users compare them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfs_dist.data import Images
from gfs_dist.jobs.deep_measures import Measures


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
    images = Images(x, labels, x, labels, (0.0,), (1.0,), 2)
    calls: list[tuple[str, int]] = []
    networks = [Noting("dense", calls), Noting("small", calls)]
    measures = Measures(images, torch.arange(8), torch.device("cpu"))
    found = measures.latencies(*networks)
    assert list(dict.fromkeys(calls)) == [("dense", 1), ("small", 1), ("dense", 64), ("small", 64)]
    assert calls == sorted(calls, key=list(dict.fromkeys(calls)).index)
    assert [[row["batch"] for row in rows] for rows in found] == [[1, 64], [1, 64]]
    assert all(row["device"] == "cpu" and row["median_s"] > 0 for rows in found for row in rows)
