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

from gfs_dist.runtime import Peers, Tick


@dataclass(frozen=True)
class Square:
    """Items are numbers; ``item_s`` is slept for each, in ten parts with a tick after each."""

    item_s: float = 0.0

    def run(self, item: int, device: torch.device, tick: Callable[[], None]) -> int:
        for _ in range(10 if self.item_s else 0):
            time.sleep(self.item_s / 10)
            tick()
        return item * item


@dataclass(frozen=True)
class Count:
    """Adds 1 to 1 + ... + k on every rank, step by step, and keeps its state in ``folder``."""

    folder: Path
    steps: int = 20
    every: int = 5
    step_s: float = 0.0

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> dict[str, Any]:
        state = self.folder / "state.json"
        first, total = json.loads(state.read_text()) if state.exists() else (0, 0.0)
        for step in range(first + 1, self.steps + 1):
            share = torch.full((3,), float(step), device=device)
            peers.average([share])
            total += float(share[0])
            time.sleep(self.step_s)
            if step % self.every == 0:
                peers.barrier()
                if peers.rank == 0:
                    aside = state.with_suffix(".aside")
                    aside.write_text(json.dumps([step, total]))
                    aside.replace(state)
                peers.barrier()
            tick(step, total)
        return {"total": total, "first": first, "ranks": peers.num_ranks, "pid": os.getpid()}
