"""Worker heartbeat and progress feed, sent to the coordinator's store by a background thread.

It writes ten times a second over a connection of its own, so that neither a blocked collective nor
the work itself stops it. The worker's main thread only sets plain attributes.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from torch.distributed import TCPStore

from gfs_dist.errors import first_line
from gfs_dist.runtime.collectives import Traffic
from gfs_dist.runtime.store import Address, connect

PERIOD_S = 0.1
FeedEntry = tuple[int, Any]
"""A step, and a value of plain JSON that belongs to it."""
log = logging.getLogger(__name__)


class WorkerPhase(StrEnum):
    """What a worker does."""

    IDLE = "idle"
    SETUP = "setup"
    JOIN = "join"
    WORK = "work"


@dataclass
class Heartbeat:
    """One sign of life of a worker.

    Attributes:
        beats: counts up while the process can run at all.
        generation, phase: of the last call.
        step: picks made, or the last step that a group task ticked.
        ticks: signs of work inside set-up or a step.
        calls, done: exchanges begun and completed.
        chunks: of the progress feed, written in this generation (rank 0 alone writes).
    """

    beats: int = 0
    generation: int = -1
    phase: WorkerPhase = WorkerPhase.IDLE
    step: int = 0
    ticks: int = 0
    calls: int = 0
    done: int = 0
    chunks: int = 0

    @property
    def blocked(self) -> bool:
        """Whether the rank waits for others."""
        return self.phase == WorkerPhase.JOIN or self.calls > self.done

    @property
    def progress(self) -> tuple[int, str, int, int, int]:
        """Changes whenever the rank gets on."""
        return self.generation, self.phase, self.step, self.ticks, self.done


def heartbeat_key(name: str) -> str:
    """Where worker ``name`` writes; a new worker has a new name."""
    return f"worker/{name}"


def fault_key(generation: int, rank: int) -> str:
    """Where a scheduled fault writes its time (seconds since 1970)."""
    return f"gen{generation}/fault{rank}"


def _chunk_key(generation: int, number: int) -> str:
    return f"gen{generation}/chunk{number}"


def read_heartbeats(store: TCPStore, names: Sequence[str]) -> list[Heartbeat]:
    """The last heartbeat of each worker."""
    return [Heartbeat(**json.loads(t)) for t in store.multi_get([heartbeat_key(n) for n in names])]


def read_feed(store: TCPStore, generation: int, first: int, end: int) -> list[FeedEntry]:
    """Chunks ``first`` to ``end`` of a generation's feed, which are then gone from the store."""
    entries: list[FeedEntry] = []
    for number in range(first, end):
        key = _chunk_key(generation, number)
        entries += [(step, value) for step, value in json.loads(store.get(key))]
        store.delete_key(key)
    return entries


class HeartbeatThread:
    """Sends the heartbeat and the feed, which the worker's main thread sets.

    Attributes:
        beat: the next heartbeat.
        traffic: of the current search or group task.
    """

    def __init__(self, address: Address, name: str) -> None:
        self.beat, self.traffic = Heartbeat(), Traffic()
        self._address, self._name = address, name
        self._feed: deque[FeedEntry] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._unsent: deque[tuple[str, str]] = deque()
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def enter(self, phase: WorkerPhase, generation: int) -> None:
        """Begin a phase; nothing of an older generation is reported in a new one."""
        with self._lock:
            if generation != self.beat.generation:
                self._feed.clear()
                self.beat.chunks = self.beat.step = 0
            self.beat.phase, self.beat.generation = phase, generation
        self._wake.set()

    def feed(self, step: int, value: Any) -> None:
        """Send ``value`` with the next heartbeat."""
        self._feed.append((step, value))

    def unsent(self) -> list[FeedEntry]:
        """The end of the feed, for an answer that is faster; it is not sent any more."""
        with self._lock:
            return self._take()

    def tick(self) -> None:
        self.beat.ticks += 1

    def wake(self) -> None:
        """Write at once, not at the next beat."""
        self._wake.set()

    def _take(self) -> list[FeedEntry]:
        return [self._feed.popleft() for _ in range(len(self._feed))]

    def _run(self) -> None:
        try:
            while True:
                self._write_until_cut(connect(self._address))
        except RuntimeError as error:  # the coordinator is gone, so this worker goes soon
            log.info("no more heartbeats: %s", first_line(error))

    def _write_until_cut(self, store: TCPStore) -> None:
        """Write until the connection breaks; what did not get through is kept for the next."""
        while True:
            self._wake.wait(PERIOD_S)
            self._wake.clear()
            try:
                with self._lock:
                    self._write(store)
            except RuntimeError as error:
                log.info("connecting again: %s", first_line(error))
                return

    def _write(self, store: TCPStore) -> None:
        beat = self.beat
        beat.beats += 1
        beat.calls, beat.done = self.traffic.calls, self.traffic.done
        if entries := self._take():
            self._unsent.append((_chunk_key(beat.generation, beat.chunks), json.dumps(entries)))
            beat.chunks += 1
        self._unsent.append((heartbeat_key(self._name), json.dumps(asdict(beat))))
        while self._unsent:
            store.set(*self._unsent[0])
            self._unsent.popleft()
