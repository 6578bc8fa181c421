"""A job's own process: threads, device, its rows of events; and events in words."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gfs_dist.config import commands as schema
from gfs_dist.errors import ConfigError
from gfs_dist.records import Event, EventKind


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads inside the block; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def local_device(device: str) -> torch.device:
    """The device of this process for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``cuda`` where torch sees no GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: found cuda, accepted here auto, cpu (torch sees no GPU)")
    return torch.device(device)


def check_device(
    config: schema.Pretrain | schema.Finetune | schema.Prune | schema.Benchmark,
) -> None:
    """Refuse a GPU that this machine has not, where its ranks are; Ray asks those of a cluster.

    Raises:
        ConfigError: names ``device``.
    """
    address = getattr(config.runtime, "address", None) or os.environ.get("RAY_ADDRESS")
    if config.runtime.kind != "ray" or not address:
        local_device(config.device)


def own_event(event: EventKind, step: int) -> Event:
    """A row of ``events.jsonl`` about this process, as the only rank."""
    return {
        "time": time.time(),
        "event": event,
        "generation": 0,
        "rank": 0,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "step": step,
    }


def fault_words(row: Event) -> str:
    """An event ``fault`` or ``recovered`` of ranks, in words."""
    at = "" if row["step"] is None else f" at step {row['step']}"
    if row["event"] == "recovered":
        return f"rank {row['rank']} is back, work goes on{at}"
    return f"rank {row['rank']} was {row.get('kind', 'lost')}{at}: replacing it"
