"""How many ranks of a benchmark can compute at once where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gfs_dist.config import commands as schema
from gfs_dist.runtime.resources import usable_cores
from gfs_dist.workflows.process import local_device


@dataclass(frozen=True)
class Places:
    """Where ranks compute.

    Attributes:
        device: ``cpu`` or ``cuda``.
        count: ranks that have cores, or a GPU, of their own; not told on a cluster.
        cluster: whether a cluster finds room for every number of ranks, or refuses.
    """

    device: str
    count: int
    cluster: bool

    @classmethod
    def of(cls, config: schema.Benchmark) -> Places:
        """Read what there is on this machine.

        Raises:
            ConfigError: ``cuda`` where torch sees no GPU.
        """
        cluster = config.preset == "cluster" or getattr(config.runtime, "address", None) is not None
        if cluster and config.device != "auto":
            return cls(config.device, 0, cluster)
        device = local_device(config.device).type
        cores = usable_cores() // (config.threads or 1)
        count = torch.cuda.device_count() if device == "cuda" else cores
        return cls(device, 0 if config.runtime.kind == "none" else count, cluster)

    def fit(self, ranks: int) -> bool:
        """Whether so many can be measured at once."""
        return self.cluster or ranks <= self.count

    def words(self, workers: Sequence[int], kind: str, threads: int) -> str:
        """How numbers of workers are measured."""
        whole = ", ".join(str(n) for n in workers if self.fit(n)) or "none"
        line = (
            f"{', '.join(map(str, workers))} workers on {self.device} ({kind}), threads a rank: "
            f"{threads}; measured at once (`whole`): {whole}"
        )
        if self.cluster:
            return line
        return (
            f"{line}; all of them also with each rank alone, one after another, the slowest of "
            "every stretch between exchanges added up (`critical path`): more ranks than cores "
            "would disturb each other"
        )
