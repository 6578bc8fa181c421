"""A worker's side of a map."""

from __future__ import annotations

import logging
import time

from gfs_dist.runtime.desk import Rank
from gfs_dist.runtime.messages import Done, Post
from gfs_dist.runtime.serialization import pack, unpack
from gfs_dist.runtime.timing import peak_rss_bytes

log = logging.getLogger(__name__)


class MapRank(Rank):
    """Holds a task and does items of it."""

    def prepare(self, post: Post, task: int, packed: bytes | None) -> float:
        """Be ready for items; seconds that took."""
        began = time.perf_counter()
        self.desk.take(post)
        self.load(task, packed)
        return time.perf_counter() - began

    def work(self, turn: int, packed: bytes) -> Done:
        """Do one item, the rank's number ``turn`` in this map."""
        desk, task = self.desk, self.thing
        desk.pulse.enter("work", desk.post.generation)
        desk.saboteur.before(turn)
        began = last = time.perf_counter()
        pause_s = 0.0

        def tick() -> None:
            nonlocal last, pause_s
            desk.pulse.tick()
            now = time.perf_counter()
            pause_s, last = max(pause_s, now - last), now

        value = task.run(unpack(packed), desk.device, tick)
        tick()
        answer = pack(value, f"what {type(task).__name__}.run returned")
        return Done(answer, last - began, pause_s, peak_rss_bytes())
