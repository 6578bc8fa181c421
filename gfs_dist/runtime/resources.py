"""What a rank may use of a machine's memory, and what it has used."""

from __future__ import annotations

from pathlib import Path

import torch

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
    facts = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in facts if line.startswith("MemAvailable:"))
    limit = CGROUP / "memory.max"
    if limit.exists() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        # Files that were read count as used until somebody needs their room.
        rows = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        used -= next(int(row.split()[1]) for row in rows if row.startswith("inactive_file "))
        free = min(free, max(int(text) - used, 0))
    return free


def forget_peak() -> int:
    """Let :func:`peak_bytes` count from now on; the bytes this process holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_bytes("VmRSS:")


def peak_bytes() -> int:
    """The most memory that this process has held since :func:`forget_peak`, or ever."""
    return _status_bytes("VmHWM:")


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
