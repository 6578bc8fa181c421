"""What one search takes, where its ranks compute, and how several numbers of ranks compare."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

import torch

from gfs_dist.bench.model.timing_model import Spread, spread
from gfs_dist.config import commands as schema
from gfs_dist.errors import PicksDifferError
from gfs_dist.runtime import RuntimeSpec, SearchResult
from gfs_dist.runtime.resources import usable_cores
from gfs_dist.selection.path import GreedyPath
from gfs_dist.workflows.process import local_device

WHOLE: Literal["whole"] = "whole"
"""All ranks at once."""
CRITICAL: Literal["critical path"] = "critical path"
"""Each rank alone, one after another; the slowest of every stretch between exchanges counts."""


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
        return self.cluster or ranks <= self.room

    def spec(self, ranks: int, threads: int, device: str) -> RuntimeSpec:
        known = {key: value for key, value in vars(self.runtime).items() if key != "kind"}
        return RuntimeSpec(self.runtime.kind, ranks, device, threads, **known)

    def words(self, workers: Sequence[int]) -> str:
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


@dataclass(frozen=True)
class SearchTime:
    """Seconds of one search by some ranks.

    Attributes:
        seconds: all of it.
        setup_s: before the first step, and after the last.
        compute_s: computing from the first step to the last, of the slowest rank.
        exchange_s: inside exchanges, as the network costs.
        wait_s: the most that one rank waits for slower ones; on a critical path part of
            ``compute_s``.
        peak_bytes: memory of the rank that needs most.
        path: what was picked.
        phases: of a critical path: ``serial`` (the caller's own), ``moments``, ``set-up``,
            ``steps``.
    """

    seconds: float
    setup_s: float
    compute_s: float
    exchange_s: float
    wait_s: float
    peak_bytes: int
    path: GreedyPath
    phases: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def at_once(cls, found: SearchResult) -> SearchTime:
        timing, ranks = found.timing, found.timing["ranks"]
        return cls(
            seconds=max(row["setup_s"] + row["compute_s"] + row["exchange_s"] for row in ranks),
            setup_s=max(row["setup_s"] for row in ranks),
            compute_s=max(row["compute_s"] for row in ranks),
            exchange_s=timing["exchange_s"],
            wait_s=timing["wait_s"],
            peak_bytes=max(row["peak_rss_bytes"] for row in ranks),
            path=found.path,
        )


class TimeRow(TypedDict, total=False):
    """A search by some ranks, medians of repeats; which keys there are depends on the suite.

    Attributes:
        measured: the way: :data:`WHOLE`, :data:`CRITICAL`, or another.
        seconds: ``median`` and range.
        threads: of a rank; one where it is not there.
        speedup: over one rank, measured alike.
        efficiency: that over the ideal.
    """

    suite: str
    neurons: int
    samples: int
    block: str
    channels: int
    size: str
    objective: str
    workers: int
    runtime: str
    device: str
    measured: str
    seconds: Spread
    threads: int
    setup_s: float
    compute_s: float
    steps_s: float
    exchange_s: float
    wait_s: float
    picks: int
    peak_memory_bytes: int
    picks_sha256: str
    speedup: float
    efficiency: float


def time_row(
    workers: int, measured: str, placement: Placement, times: Sequence[SearchTime]
) -> TimeRow:
    """Of repeats, which must pick the same.

    Raises:
        PicksDifferError: they do not.
    """
    hashes = {one.path.sha256 for one in times}
    if len(hashes) > 1:
        raise PicksDifferError(f"{workers} workers ({measured}): repeats differ: {sorted(hashes)}")
    return {
        "workers": workers,
        "runtime": placement.runtime.kind if measured == WHOLE else "none",
        "device": placement.device,
        "measured": measured,
        "seconds": spread([one.seconds for one in times]),
        "setup_s": statistics.median(one.setup_s for one in times),
        "exchange_s": statistics.median(one.exchange_s for one in times),
        "wait_s": statistics.median(one.wait_s for one in times),
        "picks": len(times[0].path),
        "peak_memory_bytes": max(one.peak_bytes for one in times),
        "picks_sha256": times[0].path.sha256,
    }


def check_picks(what: str, rows: Sequence[TimeRow]) -> None:
    """All ways to search for the same must pick the same.

    Raises:
        PicksDifferError: names the first two that do not.
    """
    first = rows[0]
    for row in rows:
        if row["picks_sha256"] != first["picks_sha256"]:
            raise PicksDifferError(
                f"{what}: {row['workers']} workers ({row['measured']}) pick "
                f"{row['picks_sha256'][:12]}, {first['workers']} ({first['measured']}) "
                f"{first['picks_sha256'][:12]}"
            )


def add_speedups(rows: Sequence[TimeRow]) -> None:
    """Speed-up over one rank that was measured alike, and its share of the ideal.

    What one rank was not measured by is compared with the critical path, or else the whole.
    """
    ones = [row for row in rows if row["workers"] == 1 and row["measured"] in (WHOLE, CRITICAL)]
    for row in rows:
        one = next((one for one in ones if one["measured"] == row["measured"]), ones[-1])
        row["speedup"] = one["seconds"]["median"] / row["seconds"]["median"]
        resources = row["workers"] * row.get("threads", 1) / one.get("threads", 1)
        row["efficiency"] = row["speedup"] / resources
