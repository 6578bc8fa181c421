"""Tasks for maps and groups that travel to workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gfs_dist.errors import DataError
from gfs_dist.runtime import Peers, Tick
from gfs_dist.runtime.fault_injection import strike


@dataclass(frozen=True)
class Square:
    """Items are numbers; ``item_s`` is slept for each, in ten parts with a tick after each.

    Item ``bad`` is refused.
    """

    item_s: float = 0.0
    bad: int | None = None

    def run(self, item: int, device: torch.device, tick: Callable[[], None]) -> int:
        for _ in range(10 if self.item_s else 0):
            time.sleep(self.item_s / 10)
            tick()
        if item == self.bad:
            raise DataError(f"item: found {item}, accepted others")
        return item * item


@dataclass(frozen=True)
class Hazard:
    """Squares items; the first try of an item in ``faults`` strikes the worker with that fault."""

    folder: Path
    faults: dict[int, str]

    def run(self, item: int, device: torch.device, tick: Callable[[], None]) -> int:
        mark = self.folder / str(item)
        if item in self.faults and not mark.exists():
            mark.touch()
            strike(self.faults[item])
        return item * item


@dataclass(frozen=True)
class WaitForOthers:
    """Item 0 waits until ``others`` further items are done; tells process and threads."""

    folder: Path
    others: int

    def run(self, item: int, device: torch.device, tick: Callable[[], None]) -> tuple[int, int]:
        while item == 0 and len(list(self.folder.iterdir())) < self.others:
            time.sleep(0.01)
            tick()
        (self.folder / str(item)).touch()
        return os.getpid(), torch.get_num_threads()


@dataclass(frozen=True)
class Meet:
    """Each item waits until ``num_ranks`` processes are at work on one."""

    folder: Path
    num_ranks: int

    def run(self, item: int, device: torch.device, tick: Callable[[], None]) -> int:
        (self.folder / str(os.getpid())).touch()
        while len(list(self.folder.iterdir())) < self.num_ranks:
            time.sleep(0.01)
            tick()
        return item


@dataclass(frozen=True)
class Generator:
    """Returns what cannot travel."""

    def run(self, item: str, device: torch.device, tick: Callable[[], None]) -> Any:
        return (letter for letter in item)


class Counted:
    """Counts in ``folder`` how often it was unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()

    def run(self, item: int, device: torch.device, tick: Callable[[], None]) -> int:
        return item


class EndsItsReader:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (3,)

    def run(self, item: int, device: torch.device, tick: Callable[[], None]) -> int:
        raise AssertionError


@dataclass(frozen=True)
class Spin:
    """Turns in circles in the first attempt at item 3, without a tick but with signs of life."""

    folder: Path

    def run(self, item: int, device: torch.device, tick: Callable[[], None]) -> int:
        mark = self.folder / "spun"
        while item == 3 and not mark.exists():
            mark.touch()
            time.sleep(3600)
        return item


@dataclass(frozen=True)
class Count:
    """Adds up 1 + ... + ``steps`` on every rank, step by step; its state is kept in ``folder``.

    Rank ``bad`` refuses step 7.
    """

    folder: Path
    steps: int = 20
    every: int = 5
    step_s: float = 0.0
    bad: int | None = None

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> dict[str, Any]:
        state = self.folder / "state.json"
        first, total = json.loads(state.read_text()) if state.exists() else (0, 0.0)
        for step in range(first + 1, self.steps + 1):
            share = torch.full((3,), float(step * (peers.rank + 1)), device=device)
            peers.average([share])
            total += float(share[0]) * 2 / (peers.num_ranks + 1)
            time.sleep(self.step_s)
            if peers.rank == self.bad and step == 7:
                raise DataError(f"rank {peers.rank} refuses")
            if step % self.every == 0:
                peers.barrier()
                if peers.rank == 0:
                    aside = state.with_suffix(".aside")
                    aside.write_text(json.dumps([step, total]))
                    aside.replace(state)
            tick(step, total)
        return {"total": total, "first": first, "ranks": peers.num_ranks, "pid": os.getpid()}
