"""What rank 0 tells the coordinator while it works, piece by piece through the store."""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any, Protocol

from torch.distributed import TCPStore

from gfs_dist.selection.loop import GAP_BATCH
from gfs_dist.selection.path import GreedyPath

Piece = dict[str, Any]


class News(Protocol):
    """Something that grows in one thread and is told by another."""

    def take(self) -> Piece | None:
        """What is new since the last call, as JSON data; None if nothing is."""
        ...


class PathNews:
    """The picks of a path; what it holds at first is known already.

    Attributes:
        steps: picks that may be told by now, set by the thread that makes them.
    """

    def __init__(self, path: GreedyPath) -> None:
        self.path = path
        self.steps = self._told = len(path)

    def take(self) -> Piece | None:
        first, end = self._told, self.steps
        if end <= first:
            return None
        self._told = end
        return piece(self.path, first, end)


class ValueNews:
    """(step, value) pairs; a value None is none."""

    def __init__(self) -> None:
        self._untold: deque[tuple[int, Any]] = deque()

    def add(self, step: int, value: Any) -> None:
        if value is not None:
            self._untold.append((step, json.loads(json.dumps(value))))  # what is no JSON fails here

    def take(self) -> Piece | None:
        values = [self._untold.popleft() for _ in range(len(self._untold))]
        return {"values": values} if values else None


def part_key(generation: int, part: int) -> str:
    """Where piece ``part`` of a generation's news is."""
    return f"gen{generation}/part{part}"


def read_parts(store: TCPStore, generation: int, first: int, end: int) -> list[Piece]:
    """Pieces ``first`` to ``end`` of a generation, which are then gone from the store."""
    pieces = []
    for number in range(first, end):
        key = part_key(generation, number)
        pieces.append(json.loads(store.get(key)))
        store.delete_key(key)
    return pieces


def piece(path: GreedyPath, first: int, end: int) -> Piece:
    """Picks ``first`` to ``end`` of a path, with the gaps that became known meanwhile."""
    known = first - first % GAP_BATCH
    settled = end - end % GAP_BATCH
    return {
        "time": time.time(),
        "first": first,
        "picks": path.picks[first:end],
        "loss": path.loss[first:end],
        "step_sizes": path.step_sizes[first:end],
        "first_gap": known,
        "gap": path.gap[known:settled],
    }


def extend(path: GreedyPath, part: Piece) -> None:
    """Add a :func:`piece` to the path it belongs to."""
    first, first_gap = part["first"], part["first_gap"]
    del path.picks[first:], path.loss[first:], path.step_sizes[first:], path.gap[first:]
    for pick, loss, size in zip(part["picks"], part["loss"], part["step_sizes"], strict=True):
        path.append(int(pick), loss, size)
    path.gap[first_gap : first_gap + len(part["gap"])] = part["gap"]
