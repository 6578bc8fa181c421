"""Where the ranks of a benchmark compute, and how many of them can do so at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gfs_dist.config import commands as schema
from gfs_dist.runtime import RuntimeSpec
from gfs_dist.runtime.resources import usable_cores
from gfs_dist.workflows.process import local_device


@dataclass(frozen=True)
class Placement:
    """Ranks as a configuration asks for them.

    Attributes:
        runtime: kind of ranks.
        device: ``cpu`` or ``cuda``.
        threads: of a rank.
        room: ranks that have cores, or a GPU, of their own; 0 on a cluster.
        cluster: whether a cluster finds room for every number of ranks, or refuses.
    """

    runtime: schema.Runtime
    device: str
    threads: int
    room: int
    cluster: bool

    @classmethod
    def of(cls, config: schema.Benchmark) -> Placement:
        """Read what there is on this machine.

        Raises:
            ConfigError: ``cuda`` where torch sees no GPU.
        """
        runtime, threads = config.runtime, config.threads or 1
        cluster = config.preset == "cluster" or getattr(runtime, "address", None) is not None
        if cluster and config.device != "auto":
            return cls(runtime, config.device, threads, 0, cluster)
        device = local_device(config.device).type
        room = torch.cuda.device_count() if device == "cuda" else usable_cores() // threads
        return cls(runtime, device, threads, 0 if runtime.kind == "none" else room, cluster)

    def fits(self, ranks: int) -> bool:
        """Whether so many can be measured at once."""
        return self.cluster or ranks <= self.room

    def spec(self, ranks: int, threads: int, device: str) -> RuntimeSpec:
        """So many ranks of the kind that is asked for."""
        known = {key: value for key, value in vars(self.runtime).items() if key != "kind"}
        return RuntimeSpec(self.runtime.kind, ranks, device, threads, **known)

    def words(self, workers: Sequence[int]) -> str:
        """How numbers of workers are measured."""
        whole = ", ".join(str(n) for n in workers if self.fits(n)) or "none"
        line = (
            f"{', '.join(map(str, workers))} workers on {self.device} ({self.runtime.kind}), "
            f"threads a rank: {self.threads}; measured at once (`whole`): {whole}"
        )
        if self.cluster:
            return line
        return (
            f"{line}; all of them also with each rank alone, one after another, the slowest of "
            "every stretch between exchanges added up (`critical path`): more ranks than cores "
            "would disturb each other"
        )
