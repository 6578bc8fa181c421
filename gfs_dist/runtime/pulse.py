"""How a worker shows that it lives: a thread that writes to the coordinator's store.

Ten times a second, and over a connection of its own, so that a blocked collective stops it as
little as it stops the loop. The loop itself only sets plain attributes.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, field

from torch.distributed import TCPStore

from gfs_dist.runtime.process_group import Traffic
from gfs_dist.runtime.store import Address, connect
from gfs_dist.selection.loop import GAP_BATCH
from gfs_dist.selection.path import Path

PERIOD_S = 0.1
log = logging.getLogger(__name__)


@dataclass
class Beat:
    """One sign of life.

    Attributes:
        beats: counts up while the process can run at all.
        generation: of the last call.
        phase: "idle", "setup", "join" or "search".
        step: picks made.
        ticks: signs of work inside set-up or a step.
        calls: exchanges begun.
        done: exchanges completed.
        parts: pieces of the path written in this generation (rank 0 alone writes).
    """

    beats: int = 0
    generation: int = -1
    phase: str = "idle"
    step: int = 0
    ticks: int = 0
    calls: int = 0
    done: int = 0
    parts: int = 0

    @property
    def blocked(self) -> bool:
        """Whether the rank waits for others."""
        return self.phase == "join" or self.calls > self.done

    @property
    def work(self) -> tuple[int, str, int, int, int]:
        """What changes as the rank gets on."""
        return self.generation, self.phase, self.step, self.ticks, self.done


def beat_key(name: str) -> str:
    """Where worker ``name`` writes; a new worker has a new name."""
    return f"worker/{name}"


def part_key(generation: int, part: int) -> str:
    """Where piece ``part`` of a generation's path is."""
    return f"gen{generation}/part{part}"


def fault_key(generation: int, rank: int) -> str:
    """Where a scheduled fault writes its time (seconds since 1970)."""
    return f"gen{generation}/fault{rank}"


@dataclass
class Pulse:
    """The thread and what it tells; attributes are set by the worker's main thread.

    Attributes:
        path: the path that rank 0 reports, None on other ranks.
        steps: picks of it that may be read by now.
        traffic: of the current search.
    """

    address: Address
    name: str
    beat: Beat = field(default_factory=Beat)
    traffic: Traffic = field(default_factory=Traffic)
    path: Path | None = None
    steps: int = 0
    _sent: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def enter(self, phase: str, generation: int) -> None:
        """Begin a phase of work; nothing of an older generation is reported in a new one."""
        with self._lock:
            if generation != self.beat.generation:
                self.path, self.beat.parts = None, 0
            self.beat.phase, self.beat.generation = phase, generation
        self._wake.set()

    def follow(self, path: Path | None) -> None:
        """Report ``path`` from here on: what it holds now is known to the coordinator."""
        with self._lock:
            self.path = path
            self.steps = self._sent = len(path) if path is not None else 0

    def tick(self) -> None:
        """Still working."""
        self.beat.ticks += 1

    def wake(self) -> None:
        """Write at once, not at the next beat."""
        self._wake.set()

    def _run(self) -> None:
        store = connect(self.address)
        while True:
            self._wake.wait(PERIOD_S)
            self._wake.clear()
            try:
                with self._lock:
                    self._write(store)
            except RuntimeError as error:  # the coordinator is gone, so this worker goes soon
                log.info("no more signs of life: %s", str(error).splitlines()[0])
                return

    def _write(self, store: TCPStore) -> None:
        beat = self.beat
        beat.beats += 1
        beat.calls, beat.done = self.traffic.calls, self.traffic.done
        if self.path is not None and self.steps > self._sent:
            part = json.dumps(piece(self.path, self._sent, self.steps))
            store.set(part_key(beat.generation, beat.parts), part)
            beat.parts += 1
            self._sent = self.steps
        store.set(beat_key(self.name), json.dumps(asdict(beat)))


def piece(path: Path, first: int, end: int) -> dict[str, object]:
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


def extend(path: Path, part: dict[str, list[float]], first: int, first_gap: int) -> None:
    """Add a :func:`piece` to the path it belongs to."""
    del path.picks[first:], path.loss[first:], path.step_sizes[first:], path.gap[first:]
    for pick, loss, size in zip(part["picks"], part["loss"], part["step_sizes"], strict=True):
        path.append(int(pick), loss, size)
    path.gap[first_gap : first_gap + len(part["gap"])] = part["gap"]
