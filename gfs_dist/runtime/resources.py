"""Memory that a rank may use and has used, and where the time of ranks went."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from gfs_dist.records import RankTiming, Timing

SHARE = 0.7
CGROUP = Path("/sys/fs/cgroup")
"""Of this container; there are no such files outside of one."""


def memory_per_rank_bytes(num_ranks: int, device: str) -> int:
    """Bytes a rank may plan with: 70 % of what is free here, divided among ranks.

    Of this machine, which on a cluster stands for the others. On GPUs every rank has its own.

    Args:
        num_ranks: ranks of the search.
        device: ``cpu``, ``cuda`` or ``auto`` (a GPU a rank if there are as many).
    """
    gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if gpus and (device == "cuda" or gpus >= num_ranks):
        free, _ = torch.cuda.mem_get_info(0)
        return int(SHARE * free)
    return int(SHARE * free_memory_bytes() / num_ranks)


def free_memory_bytes() -> int:
    """Memory of this machine that is free or can be freed, within the limit of its container."""
    free = int(psutil.virtual_memory().available)
    limit = CGROUP / "memory.max"
    if limit.exists() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        # Files that were read count as used until their room is needed.
        rows = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        used -= next(int(row.split()[1]) for row in rows if row.startswith("inactive_file "))
        free = min(free, max(int(text) - used, 0))
    return free


def forget_peak() -> int:
    """Let :func:`peak_bytes` count from now on; the bytes this process holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most memory that this process has held since :func:`forget_peak`, or ever."""
    rows = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM:"))


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def no_time() -> RankTiming:
    """The timing of a rank that has done nothing yet."""
    return {
        "setup_s": 0.0,
        "join_s": 0.0,
        "compute_s": 0.0,
        "exchange_s": 0.0,
        "messages": 0,
        "bytes": 0,
        "peak_rss_bytes": 0,
        "evaluated": 0,
        "scored": 0,
    }


def group_timing(ranks: Sequence[RankTiming], setup_s: float, steps_s: float) -> Timing:
    """Timing of a search or group task from those of its ranks, which get their ``wait_s`` here.

    The wait of a rank is its exchange time minus the least of all ranks: the rank that comes last
    to every exchange waits for no other, so its time is what the network costs. ``setup_s`` and
    ``steps_s`` are wall times of the coordinator (starting workers included, recoveries too);
    ``exchange_s`` is the least over ranks, ``wait_s`` the most. ``evaluated_share`` is the part
    of losses that a screened objective evaluated, None for others.
    """
    least = min(row["exchange_s"] for row in ranks)
    for row in ranks:
        row["wait_s"] = row["exchange_s"] - least
    scored = sum(row["scored"] for row in ranks)
    return {
        "setup_s": setup_s,
        "steps_s": steps_s,
        "exchange_s": least,
        "wait_s": max(row["wait_s"] for row in ranks),
        "evaluated_share": sum(row["evaluated"] for row in ranks) / scored if scored else None,
        "ranks": [*ranks],
    }
