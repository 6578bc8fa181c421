"""How a worker shows that it lives: a thread that writes to the coordinator's store.

Ten times a second, and over a connection of its own, so that a blocked collective stops it as
little as it stops the loop. The loop itself only sets plain attributes.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from dataclasses import asdict, dataclass, field

from torch.distributed import TCPStore

from gfs_dist.runtime.collectives import Traffic
from gfs_dist.runtime.news import News, Piece, part_key
from gfs_dist.runtime.store import Address, connect

PERIOD_S = 0.1
log = logging.getLogger(__name__)


@dataclass
class Beat:
    """One sign of life.

    Attributes:
        beats: counts up while the process can run at all.
        generation: of the last call.
        phase: "idle", "setup", "join" or "work".
        step: picks made, or the last step that a group task ticked.
        ticks: signs of work inside set-up or a step.
        calls: exchanges begun.
        done: exchanges completed.
        parts: pieces of news written in this generation (rank 0 alone writes).
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


def fault_key(generation: int, rank: int) -> str:
    """Where a scheduled fault writes its time (seconds since 1970)."""
    return f"gen{generation}/fault{rank}"


@dataclass
class Pulse:
    """The thread and what it tells; attributes are set by the worker's main thread.

    Attributes:
        news: what rank 0 tells, None on other ranks.
        traffic: of the current search or group task.
    """

    address: Address
    name: str
    beat: Beat = field(default_factory=Beat)
    traffic: Traffic = field(default_factory=Traffic)
    news: News | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._unsent: deque[tuple[str, str]] = deque()
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def enter(self, phase: str, generation: int) -> None:
        """Begin a phase of work; nothing of an older generation is reported in a new one."""
        with self._lock:
            if generation != self.beat.generation:
                self.news, self.beat.parts, self.beat.step = None, 0, 0
            self.beat.phase, self.beat.generation = phase, generation
        self._wake.set()

    def follow(self, news: News | None) -> None:
        """Tell ``news`` from here on."""
        with self._lock:
            self.news = news

    def untold(self) -> Piece | None:
        """The last of the news, for whoever can bring it faster; nothing is told from here on."""
        with self._lock:
            news, self.news = self.news, None
            return news.take() if news is not None else None

    def tick(self) -> None:
        """Still working."""
        self.beat.ticks += 1

    def wake(self) -> None:
        """Write at once, not at the next beat."""
        self._wake.set()

    def _run(self) -> None:
        try:
            while True:
                self._beat_over(connect(self.address))
        except RuntimeError as error:  # the coordinator is gone, so this worker goes soon
            log.info("no more signs of life: %s", str(error).splitlines()[0])

    def _beat_over(self, store: TCPStore) -> None:
        """Write until the connection breaks; what did not get through is kept for the next."""
        while True:
            self._wake.wait(PERIOD_S)
            self._wake.clear()
            try:
                with self._lock:
                    self._write(store)
            except RuntimeError as error:
                log.info("connecting again: %s", str(error).splitlines()[0])
                return

    def _write(self, store: TCPStore) -> None:
        beat = self.beat
        beat.beats += 1
        beat.calls, beat.done = self.traffic.calls, self.traffic.done
        if self.news is not None and (part := self.news.take()) is not None:
            self._unsent.append((part_key(beat.generation, beat.parts), json.dumps(part)))
            beat.parts += 1
        self._unsent.append((beat_key(self.name), json.dumps(asdict(beat))))
        while self._unsent:
            store.set(*self._unsent[0])
            self._unsent.popleft()
